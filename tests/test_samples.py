"""The portrait and the recording that ship: what `atvg demo` may rely on."""
import warnings

import numpy as np
import pytest
import soundfile
from PIL import Image

from atvg.audio import loudness
from atvg.clip import SIZE, read_audio, read_image
from atvg.data import MIRROR
from atvg.landmarks import STABLE, TEMPLATE, canonical_crop, detect_face, mouth_openness
from atvg.talk import SAMPLES

PORTRAIT, SPEECH = SAMPLES/'portrait.png', SAMPLES/'speech.wav'


@pytest.fixture(scope='module')
def face():
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # a second face would be a warning
        return detect_face(read_image(PORTRAIT))


@pytest.fixture(scope='module')
def crop(face): return canonical_crop(read_image(PORTRAIT), face.landmarks)


# The portrait

def test_portrait_is_small_and_its_face_large(face):
    height, width, _ = read_image(PORTRAIT).shape
    assert 320 <= width <= 400 and 400 <= height <= 480
    assert PORTRAIT.stat().st_size <= 300_000
    assert 160 <= np.linalg.norm(face.landmarks[16] - face.landmarks[0]) <= 200
    assert (face.landmarks > 20).all() and (face.landmarks < (width - 20, height - 20)).all()


def test_portrait_is_frontal_and_upright(crop):
    _, landmarks, matrix = crop
    tilt = np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))
    assert abs(tilt) < 2
    assert np.abs(landmarks[STABLE] - TEMPLATE[STABLE]).max() < 2.5
    centred = landmarks - landmarks.mean(0)
    assert np.abs(centred - centred[MIRROR]*[-1, 1]).mean() < 1.5


def test_portrait_has_its_mouth_closed_and_eyes_open(crop):
    _, landmarks, _ = crop
    assert mouth_openness(landmarks) < 1
    assert np.linalg.norm(landmarks[[37, 38, 43, 44]] - landmarks[[41, 40, 47, 46]], axis=1).min() > 4


def test_crop_is_found_again_and_well_exposed(crop):
    image, landmarks, _ = crop
    assert image.shape == (SIZE, SIZE, 3)
    assert np.abs(detect_face(image).landmarks - landmarks).mean() < 1.5
    assert 90 < image.mean() < 190 and image.std() > 25


def test_portrait_names_its_source():
    text = ' '.join(Image.open(PORTRAIT).text.values())
    for word in ('GRID', '10.5281/zenodo.3625687', 'CC BY 4.0', 'Cooke', 'nobody', 'average', 'made by computer'): assert word in text


# The recording

def test_speech_is_16_khz_mono_16_bit():
    info = soundfile.info(SPEECH)
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, 'PCM_16')
    assert 5 < info.duration < 7


def test_speech_is_loud_enough_and_unclipped():
    speech = read_audio(SPEECH)
    assert .5 < np.abs(speech).max() < .95
    assert abs(speech.mean()) < 1e-3
    assert (loudness(speech) > -45).mean() > .6


def test_speech_has_silent_ends_and_a_pause():
    speech = read_audio(SPEECH)
    end = round(.28*16000)
    assert not speech[:end].any() and not speech[-end:].any()
    assert speech[:end + 800].any() and speech[-end - 800:].any()
    inside = loudness(speech)[9:-9] < -90
    assert inside.sum() >= 5
