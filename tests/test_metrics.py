"""What the notebooks 10_metrics and 13_evaluate cannot show: what gets imported, and a store on disk."""
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from atvg.clip import Clip, InputError
from atvg.evaluate import evaluate
from atvg.landmarks import TEMPLATE, Face
from atvg.pca import LandmarkPCA


def loaded_after(code):
    "Names of the modules that a fresh interpreter has loaded after running some code."
    code += '\nimport sys; print("\\n".join(sys.modules))'
    return set(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_metrics_loads_nothing_heavy():
    heavy = {'torch', 'dlib', 'skimage.metrics', 'matplotlib.pyplot', 'torchmetrics', 'librosa', 'face_recognition_models', 'cv2'}
    assert not heavy & loaded_after('import atvg.metrics')


def test_the_package_of_model_files_is_found_without_being_imported():
    loaded = loaded_after('from atvg.metrics import face_encoder; face_encoder()')
    assert 'dlib' in loaded and 'face_recognition_models' not in loaded


def talking_square(T, seed):
    "Grey frames with a mouth that opens and shuts: enough for every score that needs no real face."
    rng = np.random.default_rng(seed)
    landmarks = np.repeat(TEMPLATE[None], T, axis=0)
    landmarks[:, 48:68] += rng.normal(0, .5, (T, 20, 2)).astype(np.float32)
    audio = rng.uniform(-.1, .1, 640*T).astype(np.float32)
    return Clip(rng.integers(0, 256, (T, 128, 128, 3), dtype=np.uint8), landmarks, audio)


def repeat(portrait, audio, portrait_landmarks, landmarks=None, **kwargs):
    T = len(audio)//640
    return SimpleNamespace(frames=np.repeat(portrait[None], T, axis=0), landmarks=np.repeat(portrait_landmarks[None], T, axis=0))


def detector(image):
    "Sees a mouth that is as open as the picture is bright."
    landmarks = TEMPLATE.copy()
    landmarks[65:68, 1] += image[:40].mean()/20
    return [Face(box=np.array([0, 0, 128, 128]), landmarks=landmarks, score=1.)]


@pytest.fixture
def store(tmp_path):
    # the crc32 of these names puts the first two of each into the test split, the third into training
    from atvg.data import split_of
    names = [name for name in (f'clip{i}' for i in range(100)) if split_of(name) == 'test'][:2]
    names += [next(name for name in (f'clip{i}' for i in range(100)) if split_of(name) == 'train')]
    for speaker in ('s1', 's2'):
        (tmp_path/'store'/speaker).mkdir(parents=True)
        for seed, name in enumerate(names): talking_square(12, seed).save(tmp_path/'store'/speaker/f'{name}.npz')
    return tmp_path/'store'


def strict(text):
    def refuse(name): raise AssertionError(f'{name} is no JSON')
    return json.loads(text, parse_constant=refuse)


def test_a_store_on_disk_becomes_strict_json(store, tmp_path):
    face = SimpleNamespace(generate=repeat, pca=LandmarkPCA.fit(talking_square(20, 5).landmarks), speakers=['s1'])
    scores = evaluate(str(store), face, detector=detector, output=tmp_path/'scores.json', progress=False)
    saved = strict((tmp_path/'scores.json').read_text())
    assert saved == scores
    assert [clip['group'] for clip in scores['clips']] == ['seen', 'seen', 'unseen', 'unseen']
    assert len(evaluate(store, face, detector=detector, limit=1, progress=False)['clips']) == 2
    assert scores['groups']['seen']['audio']['lip_correlation'] == dict(mean=0, low=None, high=None, n=2)
    assert saved['code']['version'] and saved['command']


def test_a_store_without_such_clips_is_told(store):
    with pytest.raises(InputError, match='no clips'): evaluate(store, SimpleNamespace(pca=None), speakers=['nobody'])
    with pytest.raises(InputError): evaluate(store/'nowhere', SimpleNamespace(pca=None))
