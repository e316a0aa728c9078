"""`atvg check`: each dependency and detector tried, with the remedy for what fails."""
import re
import sys
from importlib import import_module
from importlib.metadata import requires, version

IMPORTED_AS = {'ipython': 'IPython', 'scikit-image': 'skimage', 'pillow': 'PIL', 'dlib-bin': 'dlib'}
DATA_ONLY = 'face-recognition-models'  # dlib's model files: read from its folder, never imported


def requirements():
    "Yield (distribution, extra or None) as the installed package declares them."
    for line in requires('atvg'):
        name = re.match(r'[\w.-]+', line)[0].replace('_', '-').lower()
        extra = re.search(r'extra == "(\w+)"', line)
        if name != 'atvg' and (not extra or extra[1] != 'dev'): yield name, extra and extra[1]


def dependency(name):
    "The version of a dependency that loads."
    if name != DATA_ONLY: import_module(IMPORTED_AS.get(name, name.replace('-', '_')))
    return version(name)


def video_encoder():
    import imageio_ffmpeg
    return f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}"


def weights():
    from atvg.talk import TalkingFace
    TalkingFace.from_pretrained()
    return 'load'


def detector(name):
    "A detector finds the face in the portrait that comes along."
    from atvg.clip import read_image
    from atvg.landmarks import detect_face
    from atvg.talk import SAMPLES
    detect_face(read_image(SAMPLES/'portrait.png'), name)
    return 'finds the face in the sample portrait'


def attempt(what, trial, remedy, optional=False):
    "Run one trial and print one line; False when something needed failed."
    try: print(f'[OK]   {what}: {trial()}')
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        print(f"{'[--]  ' if optional else '[FAIL]'} {what}: {reason}\n       to mend it: {remedy}")
        return optional
    return True


def install(*what): return f"pip install --force-reinstall {' '.join(what)}"


def check():
    "Try everything; True if whatever is needed works."
    print(f'Python {sys.version.split()[0]}, atvg {version("atvg")}')
    results = [attempt(name, lambda: dependency(name), f'pip install "atvg[{extra}]"' if extra else install(name), bool(extra))
               for name, extra in requirements()]
    results += [attempt('video encoder', video_encoder, install('imageio-ffmpeg')),
                attempt('weights', weights, install('atvg')),
                attempt('detector dlib', lambda: detector('dlib'), install('dlib-bin', 'face_recognition_models')),
                attempt('detector face-alignment', lambda: detector('face-alignment'), 'pip install "atvg[fan]"; it fetches its weights on first use', optional=True)]
    return all(results)
