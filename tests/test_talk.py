"""The main job on good and on bad input: a right result or one clear sentence, and nothing half-written."""
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atvg.clip import InputError, SAMPLES_PER_FRAME, iter_video, read_audio, read_metadata
from atvg.landmarks import mouth_openness
from atvg.talk import SAMPLES, TalkingFace

PORTRAIT, SPEECH = SAMPLES/'portrait.png', SAMPLES/'speech.wav'


@pytest.fixture(scope='module')
def face(): return TalkingFace.from_pretrained()


@pytest.fixture(scope='module')
def quick():
    "The same pipeline with an untrained, tiny painter: for tests in which only lengths and files matter."
    import torch
    from atvg.generator import VGNET_PRESETS, VGNet
    face = TalkingFace.from_pretrained()
    torch.manual_seed(0)
    face.generator = VGNet(VGNET_PRESETS['tiny']).eval()
    return face


def atvg(*args, cwd):
    return subprocess.run([sys.executable, '-m', 'atvg.cli', *map(str, args)], cwd=cwd, capture_output=True, text=True)


def sound(path, samples, rate=16000):
    import soundfile
    soundfile.write(path, samples, rate)
    return path


@pytest.fixture
def files(tmp_path):
    picture = np.asarray(Image.open(PORTRAIT).convert('RGB'))
    small = np.asarray(Image.fromarray(picture).resize((picture.shape[1]*2//3, picture.shape[0]*2//3)))
    two = np.full((picture.shape[0], picture.shape[1] + small.shape[1] + 40, 3), 200, np.uint8)
    two[:, :picture.shape[1]], two[:small.shape[0], picture.shape[1] + 40:] = picture, small
    Image.fromarray(two).save(tmp_path/'two.png')
    Image.fromarray(np.full((200, 200, 3), 128, np.uint8)).save(tmp_path/'grey.png')
    (tmp_path/'text.png').write_text('not a picture')
    (tmp_path/'text.wav').write_text('not a sound')
    (tmp_path/'empty.wav').write_bytes(b'')
    sound(tmp_path/'none.wav', np.zeros(0))
    return tmp_path


@pytest.mark.parametrize('portrait, speech, output, says', [
    ('grey.png', SPEECH, 'out.mp4', 'no face found in'),
    ('text.png', SPEECH, 'out.mp4', 'text.png'),
    ('missing.png', SPEECH, 'out.mp4', 'missing.png'),
    (PORTRAIT, 'text.wav', 'out.mp4', 'text.wav'),
    (PORTRAIT, 'empty.wav', 'out.mp4', 'empty.wav'),
    (PORTRAIT, 'none.wav', 'out.mp4', 'none.wav'),
    (PORTRAIT, 'missing.wav', 'out.mp4', 'missing.wav'),
    (PORTRAIT, SPEECH, 'nowhere/out.mp4', 'nowhere'),
    (PORTRAIT, SPEECH, '/proc/out.mp4', '/proc'),
])
def test_bad_input_is_one_sentence(files, portrait, speech, output, says):
    before = sorted(files.iterdir())
    done = atvg('generate', portrait, speech, '-o', output, cwd=files)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert last.startswith('atvg: ') and says in last and last.rstrip().endswith('.'), last
    assert 'Traceback' not in done.stderr
    assert sorted(files.iterdir()) == before


def test_two_faces_take_the_larger_with_a_warning(files, quick):
    with pytest.warns(UserWarning, match='2 faces'): video = quick.generate(files/'two.png', SPEECH)
    alone = quick.generate(PORTRAIT, SPEECH)
    assert np.abs(video.landmarks[0] - alone.landmarks[0]).mean() < 1
    assert any('2 faces' in w for w in video.info['warnings'])


def test_silence_keeps_the_mouth_still(face, tmp_path):
    with pytest.warns(UserWarning, match='silent'): video = face.generate(PORTRAIT, sound(tmp_path/'s.wav', np.zeros(2*16000)))
    speaking = face.hear(read_audio(SPEECH), video.portrait.landmarks)
    assert len(video) == 50
    assert mouth_openness(video.landmarks).std() < .2*mouth_openness(speaking).std()


@pytest.mark.parametrize('seconds', [.1, .0001, 1.999])
def test_any_length(quick, tmp_path, seconds):
    speech = .1*np.random.default_rng(0).standard_normal(max(1, int(seconds*16000)))
    video = quick.generate(PORTRAIT, sound(tmp_path/'s.wav', speech))
    assert len(video) == -(-len(speech)//SAMPLES_PER_FRAME)
    video.save(tmp_path/'out.mp4')
    assert sum(1 for _ in iter_video(tmp_path/'out.mp4')) == len(video)


def test_ten_minutes(quick, tmp_path):
    speech = np.tile(read_audio(SPEECH), 120)[:600*16000]
    video = quick.generate(PORTRAIT, speech, sample_rate=16000)
    assert len(video) == 15000 and 'maps' not in vars(video)


def test_arrays_and_files_agree(quick):
    a = quick.generate(PORTRAIT, SPEECH)
    b = quick.generate(np.asarray(Image.open(PORTRAIT).convert('RGB')), read_audio(SPEECH), sample_rate=16000)
    assert np.array_equal(a.frames, b.frames)


def test_an_array_needs_its_rate(quick):
    with pytest.raises(InputError, match='sample_rate'): quick.generate(PORTRAIT, read_audio(SPEECH))


def test_landmarks_drive_the_painter(quick):
    still = quick.generate(PORTRAIT, SPEECH)
    driven = quick.generate(PORTRAIT, SPEECH, landmarks=still.landmarks[:7])
    assert len(driven) == 7 and np.abs(driven.frames.astype(int) - still.frames[:7]).max() <= 2
    with pytest.raises(InputError, match=r'\(T, 68, 2\)'): quick.generate(PORTRAIT, SPEECH, landmarks=still.landmarks[0])


def test_command_writes_what_it_says(tmp_path):
    done = atvg('generate', PORTRAIT, SPEECH, '-o', 'out.mp4', '--paste-back', '--label', '--storyboard', 'out.png', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ['out.mp4', 'out.png']
    frame = next(iter_video(tmp_path/'out.mp4'))
    picture = np.asarray(Image.open(PORTRAIT).convert('RGB'))
    assert [n - n % 2 for n in frame.shape[:2]] == [n + n % 2 for n in picture.shape[:2]]
    assert 'AI-generated' in read_metadata(tmp_path/'out.mp4')['comment']


def test_a_real_portrait_speaks(face, tmp_path):
    "A GRID speaker whom no training has seen keeps his face and moves his mouth."
    grid = Path(__file__).parents[2]/'shared/grid'
    if not grid.is_dir(): pytest.skip('needs ../shared/grid')
    from atvg.data import prepare_clip
    from atvg.metrics import identity_distance, redetect
    clip = prepare_clip(sorted((grid/'others').glob('*.mkv'))[0])
    at = mouth_openness(clip.landmarks).argmin()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        video = face.generate(clip.frames[at], SPEECH, portrait_landmarks=clip.landmarks[at])
    seen, found = redetect(video.frames[::10])
    assert found.all()
    assert identity_distance(video.frames[::10], seen, clip.frames[at], clip.landmarks[at]) < .4
    mouth = video.frames[:, 84:116, 36:92].astype(float)
    assert mouth.std(0).mean() > 3*video.frames[:, 40:60, 30:98].astype(float).std(0).mean()
