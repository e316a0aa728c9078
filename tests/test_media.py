"""Reading and writing pictures, sound and video: real file formats, and every wrong input that we could think of."""
import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
import soxr
from PIL import Image

import atvg.clip
from atvg.audio import audio_windows, mfcc
from atvg.clip import (AI_GENERATED, Clip, InputError, iter_video, read_audio, read_image, read_metadata, read_video,
                       write_video)

GRID = Path(__file__).parents[1].parent/'shared'/'grid'
needs_grid = pytest.mark.skipif(not GRID.is_dir(), reason=f'the GRID clips are not at {GRID}')
AS_ROOT = hasattr(os, 'geteuid') and os.geteuid() == 0
T = 50


def ffmpeg(*options):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), '-v', 'error', '-nostdin', '-y', *map(str, options)], check=True)


def wobble():
    "Two seconds of noise below 3 kHz that comes in syllables: its correlation with itself is sharp."
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(640*T))
    spectrum[6000:] = 0  # bins of half a hertz
    sound = np.fft.irfft(spectrum)*np.sin(np.arange(640*T)*np.pi/6400)**2
    return (.5*sound/np.abs(sound).max()).astype(np.float32)


def film():
    "A grey gradient with a bar that moves two pixels a frame."
    frames = np.zeros((T, 96, 128, 3), np.uint8) + np.linspace(40, 200, 128, dtype=np.uint8)[:, None]
    for f in range(T): frames[f, 30:60, 2*f:2*f + 12] = (230, 60, 40)
    return frames


def clapper():
    "One white frame, and a click at its first sample."
    board, click = np.zeros((T, 64, 64, 3), np.uint8), np.zeros(640*T, np.float32)
    board[20], click[20*640:20*640 + 64] = 255, .9
    return board, click


def clap(path, **options):
    "When the flash and the click come back, in frames."
    frames, sound = read_video(path, **options)
    return frames.mean(axis=(1, 2, 3)).argmax(), np.flatnonzero(np.abs(sound) > .3)[0]/640


def lag(ours, truth):
    "By how many samples `ours` comes late (at most a tenth of a second), and how well it then fits."
    ours, n = np.pad(ours, (0, max(0, len(truth) - len(ours))))[:len(truth)], 2*len(truth)
    fits = np.fft.irfft(np.fft.rfft(ours, n)*np.fft.rfft(truth, n).conj(), n)/np.sqrt((ours**2).sum()*(truth**2).sum())
    fits = np.roll(fits, 1600)[:3201]
    return fits.argmax() - 1600, fits.max()


@pytest.fixture(scope='module')
def media(tmp_path_factory):
    "A folder with one sound and one film, and the clapperboard."
    folder = tmp_path_factory.mktemp('media')
    soundfile.write(folder/'sound.wav', wobble(), 16000, subtype='FLOAT')
    write_video(folder/'film.mp4', film(), wobble())
    write_video(folder/'clap.mp4', *clapper())
    return folder


# ---- sound

def stereo(rate, left, right=0):
    sound = soxr.resample(wobble(), 16000, rate)
    return np.stack([left*sound, right*sound], axis=1)


SOUNDS = {
    'phone.wav': (8000, 'PCM_U8', 1, 1),
    'mono.wav': (44100, 'PCM_16', 1, 1),
    'left.wav': (44100, 'PCM_16', 1, 0),
    'studio.wav': (48000, 'FLOAT', .6, .2),
    'deep.wav': (96000, 'PCM_24', 1, 1),
    'long.w64': (22050, 'PCM_32', 1, 1),
    'music.flac': (48000, 'PCM_24', 1, 1),
    'old.aiff': (11025, 'PCM_16', 1, 1),
    'free.ogg': (44100, 'VORBIS', 1, 1),
}


@pytest.mark.parametrize('name', SOUNDS)
def test_sound_that_soundfile_reads(name, tmp_path):
    rate, subtype, left, right = SOUNDS[name]
    soundfile.write(tmp_path/name, stereo(rate, left, right), rate, subtype=subtype)
    check_sound(tmp_path/name, (left + right)/2)


@pytest.mark.parametrize('name, options', {
    'speech.mp3': ['-ar', 44100, '-ac', 2, '-b:a', '192k'], 'slow.mp3': ['-ar', 16000], 'voice.m4a': ['-ar', 44100, '-ac', 2],
    'note.aac': ['-ar', 48000], 'message.opus': ['-ar', 48000], 'sound.webm': ['-c:a', 'libopus', '-ar', 48000],
    'windows.wma': ['-ar', 44100], 'apple.m4a': ['-c:a', 'alac'], 'radio.mp2': ['-ar', 44100], 'surround.mka': ['-c:a', 'flac', '-ac', 6],
}.items(), ids=lambda x: x if isinstance(x, str) else '')
def test_sound_that_ffmpeg_makes(name, options, media, tmp_path):
    ffmpeg('-i', media/'sound.wav', *options, tmp_path/name)
    # without a container nobody noted how much the encoder put in front
    late = {'note.aac': 1024*16/48, 'windows.wma': 2048*16/44.1, 'radio.mp2': 481*16/44.1}.get(name, 0)
    level = 1/6 if name.startswith('surround') else None
    check_sound(tmp_path/name, level, late)


def check_sound(path, level, late=0):
    sound, truth = read_audio(path), wobble()
    assert sound.dtype == np.float32 and sound.ndim == 1 and np.abs(sound).max() <= 1
    shift, fit = lag(sound, truth)
    assert abs(shift - late) <= 20 and fit > .94
    assert -2 <= len(sound) - len(truth) < 3500
    if level: assert np.sqrt((sound**2).sum()/(truth**2).sum()) == pytest.approx(level, rel=.05)


@pytest.mark.parametrize('make', [
    lambda x: np.round(x*32767).astype(np.int16), lambda x: np.round(x*2.**31).astype(np.int32), lambda x: np.round(x*127 + 128).astype(np.uint8),
    lambda x: x.astype(np.float64), lambda x: list(map(float, x)), lambda x: np.stack([x, x]), lambda x: np.stack([x, x], axis=1), lambda x: x[:, None],
], ids=['int16', 'int32', 'uint8', 'float64', 'list', '(2,n)', '(n,2)', '(n,1)'])
def test_samples_of_any_type(make):
    sound = read_audio(make(wobble()), sample_rate=16000)
    assert sound.dtype == np.float32 and np.abs(sound - wobble()).max() < 8e-3


def test_a_recording_of_one_sample_has_one_frame(tmp_path):
    soundfile.write(tmp_path/'one.wav', np.array([.5]), 16000)
    assert audio_windows(read_audio(tmp_path/'one.wav')).shape == (1, 28, 12)


def test_silence_is_finite(tmp_path):
    soundfile.write(tmp_path/'silence.wav', np.zeros(44100), 44100)
    windows = audio_windows(read_audio(tmp_path/'silence.wav'))
    assert windows.shape == (25, 28, 12) and np.abs(windows).max() < 1e-4


def test_the_sound_of_a_film(media):
    sound = read_audio(media/'film.mp4')
    shift, fit = lag(sound, wobble())
    assert abs(shift) <= 1 and fit > .97


# ---- pictures

def picture():
    y, x = np.mgrid[:40, :60]
    return np.stack([4*x, 6*y, 2*(x + y)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize('name, options', {'a.png': {}, 'a.bmp': {}, 'a.tiff': {}, 'a.webp': dict(lossless=True), 'a.jpg': dict(quality=95, subsampling=0),
                                           'a.ppm': {}, 'a.gif': {}}.items(), ids=lambda x: x if isinstance(x, str) else '')
def test_picture_formats(name, options, tmp_path):
    Image.fromarray(picture()).save(tmp_path/name, **options)
    image = read_image(tmp_path/name)
    assert image.dtype == np.uint8 and image.shape == (40, 60, 3)
    assert np.abs(image.astype(int) - picture()).mean() <= {'a.jpg': 2, 'a.gif': 12}.get(name, 0)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_every_orientation_of_a_telephone(orientation, tmp_path):
    "The stored picture is turned the other way, so that a viewer that obeys the note shows the original."
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # PIL's transpositions
    image, exif = Image.fromarray(picture()), Image.Exif()
    exif[0x0112] = orientation
    (image if undo is None else image.transpose(Image.Transpose(undo))).save(tmp_path/'a.png', exif=exif)
    assert (read_image(tmp_path/'a.png') == picture()).all()


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'I;16'])
def test_every_kind_of_pixel(mode, tmp_path):
    grey = np.repeat(np.arange(0, 256, 17, dtype=np.uint8)[None], 4, axis=0)
    if mode == 'I;16': image = Image.fromarray(grey.astype(np.uint16)*257)
    else: image = Image.fromarray(grey).convert(mode)
    name = tmp_path/('a.jpg' if mode in ('CMYK', 'YCbCr') else 'a.png')
    image.save(name, quality=100)
    ours = read_image(name)
    assert ours.shape == (4, 16, 3)
    if mode != '1': assert np.abs(ours.astype(int) - grey[..., None]).max() <= 3
    if name.suffix == '.png': assert (read_image(image) == ours).all()


def test_transparent_palette_becomes_white(tmp_path):
    image = Image.new('P', (2, 1))
    image.putdata([0, 1])
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path/'a.png', transparency=1)
    assert read_image(tmp_path/'a.png').tolist() == [[[10, 20, 30], [255, 255, 255]]]


# ---- video

CONTAINERS = {
    'film.mkv': ['-c:v', 'libx264', '-crf', 10, '-c:a', 'flac'],
    'film.mpg': ['-c:v', 'mpeg1video', '-q:v', 2, '-c:a', 'mp2', '-ar', 44100],
    'film.avi': ['-c:v', 'mpeg4', '-q:v', 2, '-c:a', 'pcm_s16le'],
    'film.mov': ['-c:v', 'mjpeg', '-q:v', 2, '-c:a', 'aac'],
    'film.webm': ['-c:v', 'libvpx-vp9', '-crf', 20, '-b:v', 0, '-cpu-used', 8, '-c:a', 'libopus'],
    'film.ts': ['-c:v', 'libx264', '-crf', 10, '-c:a', 'mp2', '-ar', 44100],
}


@pytest.mark.parametrize('name', CONTAINERS)
def test_video_formats(name, media, tmp_path):
    ffmpeg('-i', media/'film.mp4', *CONTAINERS[name], tmp_path/name)
    frames, sound = read_video(tmp_path/name)
    assert frames.shape == (T, 96, 128, 3) and frames.dtype == np.uint8 and sound.shape == (640*T,)
    error = frames.astype(float) - film()
    assert np.abs(error.mean()) < 1.5 and 10*np.log10(255**2/(error**2).mean()) > 28


@pytest.mark.parametrize('name', CONTAINERS)
def test_picture_and_sound_stay_together(name, media, tmp_path):
    ffmpeg('-i', media/'clap.mp4', *CONTAINERS[name], tmp_path/name)
    flash, click = clap(tmp_path/name)
    assert flash == 20 and abs(click - 20) < .5


@pytest.mark.parametrize('sound_late, picture_late', [(.4, 0), (0, .4)])
def test_a_track_that_starts_late(sound_late, picture_late, media, tmp_path):
    ffmpeg('-itsoffset', picture_late, '-i', media/'clap.mp4', '-itsoffset', sound_late, '-i', media/'clap.mp4',
           '-map', '0:v', '-map', '1:a', '-c:v', 'copy', '-c:a', 'flac', tmp_path/'late.mkv')
    flash, click = clap(tmp_path/'late.mkv')
    assert flash == 20 + 25*picture_late and abs(click - 20 - 25*sound_late) < .5


@pytest.mark.parametrize('rate', [12.5, 24, '30000/1001', 30, 50, 60])
def test_other_rates_are_re_timed(rate, media, tmp_path):
    ffmpeg('-i', media/'clap.mp4', '-vf', f'fps={rate}', '-c:v', 'libx264', '-crf', 10, '-c:a', 'copy', tmp_path/'rate.mp4')
    frames, sound = read_video(tmp_path/'rate.mp4')
    flash, click = clap(tmp_path/'rate.mp4')
    assert abs(len(frames) - T) <= 2 and len(sound) == 640*len(frames)
    assert abs(flash - 20) <= 1 and abs(click - 20) < .5


def test_a_wanted_rate_of_its_own(media):
    frames, sound = read_video(media/'film.mp4', fps=10)
    assert len(frames) == 20 and len(sound) == 32000


def test_a_telephone_held_upright(media, tmp_path):
    ffmpeg('-display_rotation', 90, '-i', media/'film.mp4', '-c', 'copy', tmp_path/'upright.mp4')
    frames, _ = read_video(tmp_path/'upright.mp4')
    assert frames.shape == (T, 128, 96, 3)
    assert np.abs(np.rot90(film()[0]).astype(int) - frames[0]).mean() < 5


def test_pixels_that_are_not_square(media, tmp_path):
    ffmpeg('-i', media/'film.mp4', '-vf', 'setsar=16/11', '-c:v', 'libx264', tmp_path/'tv.mp4')
    assert next(iter_video(tmp_path/'tv.mp4')).shape == (96, 186, 3)


def test_the_cover_of_a_song_is_no_video(media, tmp_path):
    Image.fromarray(picture()).save(tmp_path/'cover.png')
    ffmpeg('-i', media/'sound.wav', '-i', tmp_path/'cover.png', '-map', 0, '-map', 1, '-disposition:v', 'attached_pic', tmp_path/'song.mp3')
    assert abs(lag(read_audio(tmp_path/'song.mp3'), wobble())[0]) <= 10
    with pytest.raises(InputError, match='has no video'): read_video(tmp_path/'song.mp3')


NAMES = ['with space.mp4', 'ümlaut 话.mp4', "it's \"so\".mp4", '100%d.mp4', 'a:b;c,d=e.mp4', '[brackets](too).mp4', '#1&2.mp4']


@pytest.mark.parametrize('name', NAMES)
def test_any_file_name(name, tmp_path):
    write_video(tmp_path/name, *clapper(), metadata=dict(comment=AI_GENERATED))
    assert clap(tmp_path/name)[0] == 20 and read_metadata(tmp_path/name)['comment'] == AI_GENERATED


@pytest.mark.parametrize('name', ['-i.mp4', 'http:x.mp4', 'concat:a.mp4'])
def test_names_that_look_like_something_else(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(name, *clapper())
    assert clap(name)[0] == 20 and os.listdir() == [name]


# ---- writing

def streams(path):
    text = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), '-hide_banner', '-i', path], capture_output=True, text=True).stderr
    return '\n'.join(line for line in text.splitlines() if 'Stream' in line or 'Duration' in line)


@pytest.mark.parametrize('h, w', [(64, 64), (63, 64), (64, 63), (63, 65)])
@pytest.mark.parametrize('suffix', ['.mp4', '.m4v', '.mov', '.MP4'])
def test_what_is_written_plays_in_a_browser(h, w, suffix, tmp_path):
    path = tmp_path/f'a{suffix}'
    write_video(path, film()[:, :h, :w], wobble())
    text, data = streams(path), path.read_bytes()
    assert 'h264' in text and 'yuv420p' in text and 'aac' in text and '25 fps' in text and 'Duration: 00:00:02.0' in text
    assert data.index(b'moov') < data.index(b'mdat')
    frames, _ = read_video(path)
    assert frames.shape == (T, h + h % 2, w + w % 2, 3)
    assert np.abs(frames[:, :h, :w].astype(float) - film()[:, :h, :w]).mean() < 4


@pytest.mark.parametrize('samples', [100, 640*T - 1, 640*T, 640*T + 1, 3*640*T])
def test_the_sound_is_as_long_as_the_picture(samples, tmp_path):
    write_video(tmp_path/'a.mp4', film(), np.resize(wobble(), samples))
    assert len(list(iter_video(tmp_path/'a.mp4'))) == T
    assert abs(len(read_audio(tmp_path/'a.mp4')) - 640*T) < 640


def test_a_recording_goes_in_as_it_is(tmp_path):
    soundfile.write(tmp_path/'stereo.wav', stereo(44100, 1, 0), 44100)
    write_video(tmp_path/'a.mp4', film(), tmp_path/'stereo.wav')
    assert '44100 Hz, stereo' in streams(tmp_path/'a.mp4')
    assert abs(lag(read_audio(tmp_path/'a.mp4'), wobble())[0]) <= 1


def test_the_sound_of_one_film_in_another(media, tmp_path):
    write_video(tmp_path/'a.mp4', clapper()[0], media/'clap.mp4')
    flash, click = clap(tmp_path/'a.mp4')
    assert flash == 20 and abs(click - 20) < .1


def test_samples_at_their_own_rate(tmp_path):
    write_video(tmp_path/'a.mp4', film(), soxr.resample(wobble(), 16000, 48000), sample_rate=48000)
    assert '48000 Hz' in streams(tmp_path/'a.mp4')


def test_no_sound_is_no_track(tmp_path):
    write_video(tmp_path/'a.mp4', film())
    assert 'Audio' not in streams(tmp_path/'a.mp4')


def test_metadata_of_the_recording_does_not_leak(media, tmp_path):
    ffmpeg('-i', media/'sound.wav', '-metadata', 'artist=somebody', '-metadata', 'comment=private', tmp_path/'tagged.flac')
    assert read_metadata(tmp_path/'tagged.flac')['COMMENT'.lower()] == 'private'
    write_video(tmp_path/'a.mp4', film(), tmp_path/'tagged.flac', metadata=dict(comment=AI_GENERATED))
    metadata = read_metadata(tmp_path/'a.mp4')
    assert metadata['comment'] == AI_GENERATED and 'artist' not in metadata


def test_frames_are_streamed(tmp_path):
    "However long the video, only a few frames live at a time."
    alive, most = weakref.WeakSet(), [0]

    class Frame(np.ndarray): pass

    def frames():
        for _ in range(300):
            frame = np.zeros((64, 64, 3), np.uint8).view(Frame)
            alive.add(frame)
            most[0] = max(most[0], len(alive))
            yield frame
            del frame
    # a set of arrays needs a hash
    Frame.__hash__, Frame.__eq__ = object.__hash__, object.__eq__
    write_video(tmp_path/'a.mp4', frames())
    gc.collect()
    assert most[0] <= 4 and len(list(iter_video(tmp_path/'a.mp4'))) == 300


def test_a_long_video_is_read_frame_by_frame(media):
    frames = iter_video(media/'film.mp4')
    assert next(frames).shape == (96, 128, 3) and not isinstance(frames, list)


@pytest.fixture
def processes(monkeypatch):
    "Every process that `atvg.clip` starts."
    started, popen = [], subprocess.Popen

    def start(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        return started[-1]
    monkeypatch.setattr(atvg.clip.subprocess, 'Popen', start)
    return started


def test_who_stops_listening_ends_the_process(media, processes):
    frames = iter_video(media/'film.mp4')
    next(frames)
    frames.close()
    assert processes and all(process.poll() is not None for process in processes)


def test_frames_can_be_changed(media):
    next(iter_video(media/'film.mp4'))[:] = 0


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError, MemoryError])
def test_nothing_half_written_stays(error, tmp_path, processes):
    (tmp_path/'a.mp4').write_text('the old one')

    def frames():
        yield from film()[:10]
        raise error('stop')
    with pytest.raises(error): write_video(tmp_path/'a.mp4', frames(), wobble())
    assert os.listdir(tmp_path) == ['a.mp4'] and (tmp_path/'a.mp4').read_text() == 'the old one'
    assert processes and all(process.poll() is not None for process in processes)


# ---- wrong input

def write(path, data):
    path.write_bytes(data)
    return path


def wav(path, sound, rate=16000, **options):
    soundfile.write(path, sound, rate, **options)
    return path


HTML = b'<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not Found</body></html>\n'
LFS = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n'
NOISE = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()

FILES = {
    'missing': (lambda d, m: d/'missing.mp4', 'there is no such'),
    'folder': (lambda d, m: d, 'is a folder'),
    'empty': (lambda d, m: write(d/'empty.wav', b''), 'is empty'),
    'noise': (lambda d, m: write(d/'noise.mp4', NOISE), None),
    'error page': (lambda d, m: write(d/'page.mp4', HTML), None),
    'git-lfs': (lambda d, m: write(d/'pointer.wav', LFS), None),
    'text': (lambda d, m: write(d/'notes.txt', 'Zwölf Boxkämpfer\n'.encode()*300), None),
    'short text': (lambda d, m: write(d/'x.mp4', b'x'), None),
    'playlist': (lambda d, m: write(d/'list.m3u8', f'#EXTM3U\n#EXTINF:2,\n{m/"film.mp4"}\n'.encode()), None),
    'concat script': (lambda d, m: write(d/'list.mp4', f'ffconcat version 1.0\nfile {m/"film.mp4"}\n'.encode()), None),
    'archive': (lambda d, m: write(d/'a.zip', b'PK\x03\x04' + NOISE), None),
}


def check_message(error, path):
    "One sentence that names the file, and no words of ffmpeg's log."
    message = str(error.value)
    assert str(path) in message and '\n' not in message and len(message) < len(str(path)) + 200
    assert message.endswith('.') and ' @ 0x' not in message and '; ' in message


@pytest.mark.parametrize('read', [read_image, read_audio, read_video, iter_video, read_metadata, Clip.load])
@pytest.mark.parametrize('name', FILES)
def test_files_that_are_something_else(name, read, media, tmp_path):
    make, words = FILES[name]
    path = make(tmp_path, media)
    before = sorted(tmp_path.iterdir())
    if words is None and read in (read_audio, read_video, iter_video): words = 'cannot be read as' if name in ('noise', 'archive') else 'is a text file'
    with pytest.raises(InputError, match=words) as error:
        result = read(path)
        if read is iter_video: list(result)
    check_message(error, path)
    assert sorted(tmp_path.iterdir()) == before


BROKEN = {
    'half a PNG': (read_image, lambda d, m: half(picture_file(d/'a.png')), 'is damaged'),
    'half a JPEG': (read_image, lambda d, m: half(picture_file(d/'a.jpg')), 'is damaged'),
    'sound as picture': (read_image, lambda d, m: m/'sound.wav', 'is not a picture'),
    'video as picture': (read_image, lambda d, m: m/'film.mp4', 'is not a picture'),
    'picture with half numbers': (read_image, lambda d, m: float_picture(d/'a.tiff'), 'floating point'),
    'picture as sound': (read_audio, lambda d, m: picture_file(d/'a.png'), 'has no sound track'),
    'no samples': (read_audio, lambda d, m: wav(d/'a.wav', np.zeros(0)), 'has no samples'),
    'only a header': (read_audio, lambda d, m: write(d/'a.wav', wav(d/'b.wav', np.zeros(99)).read_bytes()[:44]), 'has no samples'),
    'not a number': (read_audio, lambda d, m: wav(d/'a.wav', np.full(99, np.nan), subtype='FLOAT'), 'not numbers'),
    'far too loud': (read_audio, lambda d, m: wav(d/'a.wav', np.full(99, 3e4), subtype='FLOAT'), 'reaches 30000'),
    'half an m4a': (read_audio, lambda d, m: half(sound_file(d/'a.m4a', m)), 'cannot be read'),
    'silent film': (read_audio, lambda d, m: silent(d/'a.mp4'), 'has no sound track'),
    'silent film as clip': (read_video, lambda d, m: silent(d/'a.mp4'), 'has no sound track'),
    'sound as video': (read_video, lambda d, m: m/'sound.wav', 'has no video'),
    'half an MP4, index first': (read_video, lambda d, m: half(m/'film.mp4', d/'a.mp4'), 'is cut off'),
    'half an MP4, index last': (read_video, lambda d, m: half(recoded(d/'b.mp4', m), d/'a.mp4'), 'cannot be read'),
    'half an MKV': (read_video, lambda d, m: half(recoded(d/'b.mkv', m), d/'a.mkv'), 'is cut off'),
    'a stained MPG': (read_video, lambda d, m: stained(grainy(d/'b.mpg', m), d/'a.mpg'), 'is damaged'),
}


def half(path, to=None):
    data = path.read_bytes()
    return write(to or path, data[:len(data)*6//10])


def picture_file(path):
    Image.fromarray(picture()).save(path)
    return path


def float_picture(path):
    Image.fromarray(np.ones((4, 4), np.float32)/2).save(path)
    return path


def sound_file(path, media):
    ffmpeg('-i', media/'sound.wav', path)
    return path


def silent(path):
    write_video(path, film())
    return path


def recoded(path, media):
    ffmpeg('-i', media/'film.mp4', '-crf', 10, path)
    return path


def grainy(path, media):
    ffmpeg('-i', media/'film.mp4', '-vf', 'noise=alls=40:allf=t', '-c:v', 'mpeg1video', '-q:v', 4, '-an', path)
    return path


def stained(path, to):
    data = bytearray(path.read_bytes())
    for start in range(len(data)//4, len(data) - 400, len(data)//12): data[start:start + 300] = NOISE[:300]
    return write(to, bytes(data))


@pytest.mark.parametrize('name', BROKEN)
def test_broken_files(name, media, tmp_path):
    read, make, words = BROKEN[name]
    path = make(tmp_path, media)
    with pytest.raises(InputError, match=words) as error: read(path)
    check_message(error, path)


@pytest.mark.skipif(AS_ROOT, reason='root may read and write everything')
def test_permissions(media, tmp_path):
    secret = write(tmp_path/'secret.wav', (media/'sound.wav').read_bytes())
    secret.chmod(0)
    with pytest.raises(InputError, match='may not be read'): read_audio(secret)
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match='cannot be written to'): write_video(tmp_path/'a.mp4', film())
    tmp_path.chmod(0o700)


@pytest.mark.parametrize('call, words', [
    (lambda: read_audio(wobble()), 'give sample_rate='),
    (lambda: read_audio(wobble(), sample_rate=0), 'sample rate 0'),
    (lambda: read_audio(wobble(), sample_rate=-8000), 'sample rate -8000'),
    (lambda: read_audio([], sample_rate=16000), 'no samples'),
    (lambda: read_audio(np.zeros((2, 3, 4)), sample_rate=16000), 'shape'),
    (lambda: read_audio(np.zeros(9, complex), sample_rate=16000), 'complex'),
    (lambda: read_audio(np.array(['a']), sample_rate=16000), 'give samples'),
    (lambda: read_audio(np.array([np.inf]), sample_rate=16000), 'not numbers'),
    (lambda: read_audio(None, sample_rate=16000), 'give samples'),
    (lambda: read_image(np.zeros((4, 4, 3))), 'float64 pixels'),
    (lambda: read_image(np.zeros((4, 4, 5), np.uint8)), 'shape'),
    (lambda: read_image(np.zeros((0, 4, 3), np.uint8)), 'shape'),
    (lambda: read_image(None), 'shape'),
], ids=str)
def test_arrays_that_are_wrong(call, words):
    with pytest.raises(InputError, match=words): call()


@pytest.mark.parametrize('name, frames, options, words', [
    ('a.avi', film(), {}, r'must end in \.mp4'),
    ('nowhere/a.mp4', film(), {}, 'does not exist'),
    ('a.mp4', [], {}, 'no frames'),
    ('a.mp4', film()/255, {}, 'uint8'),
    ('a.mp4', film()[..., :1], {}, 'uint8'),
    ('a.mp4', [film()[0], film()[0, :50]], {}, 'same size'),
    ('a.mp4', film(), dict(audio='missing.wav'), 'no such recording'),
    ('a.mp4', film(), dict(audio=np.zeros(0)), 'no samples'),
    ('a.mp4', film(), dict(audio=np.full(9, np.nan)), 'not numbers'),
    ('a.mp4', film(), dict(audio=__file__), 'is a text file'),
], ids=str)
def test_nothing_is_written_for_wrong_input(name, frames, options, words, tmp_path):
    with pytest.raises(InputError, match=words): write_video(tmp_path/name, frames, **options)
    assert not os.listdir(tmp_path)


def test_the_output_may_not_be_a_folder(tmp_path):
    (tmp_path/'a.mp4').mkdir()
    with pytest.raises(InputError, match='is a folder'): write_video(tmp_path/'a.mp4', film())


# ---- clips

def clip(**changes):
    parts = dict(frames=film(), landmarks=np.random.default_rng(0).uniform(0, 128, (T, 68, 2)), audio=wobble(),
                 truth=dict(open=np.arange(T), nuisance=dict(light=np.ones((T, 3)), seed=7), phonemes=[['a', 0., .1]], mask=film()[..., 0] > 200),
                 info=dict(source='film', nested=dict(x=[1, 2])))
    return Clip(**{**parts, **changes})


@pytest.mark.parametrize('quality', [95, None])
def test_a_clip_comes_back(quality, tmp_path):
    ours = clip()
    ours.save(tmp_path/'a.npz', quality=quality)
    again = Clip.load(tmp_path/'a.npz')
    assert (again.landmarks == ours.landmarks).all() and np.abs(again.audio - ours.audio).max() < 1/32768
    assert again.info == ours.info and again.truth['phonemes'] == ours.truth['phonemes'] and again.truth['nuisance']['seed'] == 7
    for name in ('open', 'mask'): assert (again.truth[name] == ours.truth[name]).all() and again.truth[name].dtype == ours.truth[name].dtype
    assert np.abs(again.frames.astype(int) - ours.frames).mean() <= (2 if quality else 0)
    again.save(tmp_path/'b.npz', quality=None)
    assert (Clip.load(tmp_path/'b.npz').audio == again.audio).all()


@pytest.mark.parametrize('start, stop', [(0, 1), (0, T), (7, 23), (-10, None), (40, 1000)])
def test_a_part_of_a_file_is_the_part_of_the_clip(start, stop, tmp_path):
    clip().save(tmp_path/'a.npz')
    whole, part = Clip.load(tmp_path/'a.npz')[start:stop], Clip.load(tmp_path/'a.npz', slice(start, stop))
    assert (whole.frames == part.frames).all() and (whole.audio == part.audio).all() and (whole.landmarks == part.landmarks).all()
    assert (whole.truth['mask'] == part.truth['mask']).all() and whole.info == part.info


def test_a_damaged_clip_file(tmp_path):
    clip().save(tmp_path/'a.npz')
    with pytest.raises(InputError, match='not a whole clip'): Clip.load(half(tmp_path/'a.npz'))
    np.savez(tmp_path/'b.npz', something=np.zeros(3))
    with pytest.raises(InputError, match='not a whole clip'): Clip.load(tmp_path/'b.npz')


def test_loading_a_clip_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self): return (Path.touch, (tmp_path/'pwned',))
    np.savez(tmp_path/'a.npz', json=np.array([Evil()], dtype=object))
    with pytest.raises(InputError): Clip.load(tmp_path/'a.npz')
    assert not (tmp_path/'pwned').exists()


def test_a_failed_save_keeps_the_old_clip(tmp_path, monkeypatch):
    clip().save(tmp_path/'a.npz')
    before = (tmp_path/'a.npz').read_bytes()

    def full(file, **arrays):
        file.write(b'PK')
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(np, 'savez_compressed', full)
    with pytest.raises(OSError): clip().save(tmp_path/'a.npz')
    assert (tmp_path/'a.npz').read_bytes() == before and os.listdir(tmp_path) == ['a.npz']


def test_a_clip_as_video(tmp_path):
    clip().write_video(tmp_path/'a.mp4', metadata=dict(comment=AI_GENERATED))
    frames, sound = read_video(tmp_path/'a.mp4')
    assert len(frames) == T and abs(lag(sound, wobble())[0]) <= 1 and read_metadata(tmp_path/'a.mp4')['comment'] == AI_GENERATED


def test_a_long_clip_plays_its_beginning():
    n = 31*25
    long = Clip(np.zeros((n, 16, 16, 3), np.uint8), np.zeros((n, 68, 2)), np.zeros(640*n))
    assert 'the first 30 s' in long._repr_html_() and 'the first' not in long[:25]._repr_html_()


# ---- the modules themselves

def test_they_load_nothing_heavy():
    heavy = ['torch', 'librosa', 'moviepy', 'PIL', 'scipy', 'matplotlib', 'soundfile', 'imageio_ffmpeg', 'IPython']
    code = f'import sys, atvg.clip, atvg.audio; print([m for m in {heavy} if m in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


@pytest.mark.parametrize('folder, name, frames', [('s1', 'bbaf2n.mkv', 75), ('others', 'brbk7n.mkv', 75), ('original', 'lbij7s.mpg', 75)])
@needs_grid
def test_real_clips(folder, name, frames):
    psf = pytest.importorskip('python_speech_features')
    pictures, sound = read_video(GRID/folder/name)
    assert pictures.shape == (frames, 288, 360, 3) and sound.shape == (640*frames,) and .02 < sound.std() < .5
    assert np.abs(mfcc(sound) - psf.mfcc(sound.astype(float))).max() < 1e-4
    assert audio_windows(sound).shape == (frames, 28, 12)


@needs_grid
def test_the_same_sentence_from_two_containers(tmp_path):
    ffmpeg('-i', GRID/'s1'/'bbaf2n.mkv', '-vn', '-c:a', 'pcm_s16le', tmp_path/'a.wav')
    assert (read_audio(tmp_path/'a.wav') == read_audio(GRID/'s1'/'bbaf2n.mkv')).all()


@needs_grid
def test_the_damaged_original_is_refused():
    with pytest.raises(InputError, match='is damaged'): read_video(GRID/'original'/'bbaf2a.mpg')
