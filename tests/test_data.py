"""From files to a store: corpora as they are handed out, videos of all kinds, damage, kills, downloads."""
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
from PIL import Image

from atvg import data
from atvg.cli import main
from atvg.clip import Clip, InputError, write_video
from atvg.data import (Store, download_grid, fetch, iter_clips, part_of, plan_clips, prepare, prepare_clip,
                       prepare_clips, read_record, split_of)
from atvg.landmarks import TEMPLATE, Face

GRID = Path(__file__).parents[2]/'shared'/'grid'
needs_grid = pytest.mark.skipif(not GRID.is_dir(), reason=f'the GRID clips are not at {GRID}')
ALIGN = '0 2500 sil\n2500 6250 bin\n6250 10000 blue\n10000 14000 sil\n'


def ffmpeg(*options):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), '-v', 'error', '-nostdin', '-y', *map(str, options)], check=True)


def steady(frame):
    "A detector for tests that are not about detecting: the face is where the template has it."
    return [Face(np.array((0., 20., 128., 148.)), TEMPLATE, 1.)]


def seeing(script):
    "A detector that sees a face where `script` has a 1."
    answers = iter(script)
    return lambda frame: steady(frame) if next(answers) == '1' else []


def noise(n_frames, seed=0): return np.random.default_rng(seed).uniform(-.3, .3, 640*n_frames).astype(np.float32)


def film(path, n_frames=14, seed=0, fps=25, sound=True):
    "A cheap video: a grey that changes, and noise."
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.full((n_frames, 128, 128, 3), 90, np.uint8) + np.arange(n_frames, dtype=np.uint8)[:, None, None, None]
    write_video(path, frames, noise(round(n_frames*25/fps), seed) if sound else None, fps=fps)
    return path


def files(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(Path(folder).glob('*/*')) if p.is_file()}


@pytest.fixture(scope='module')
def puppet():
    from atvg.puppet import puppet_clip
    return puppet_clip('hello you', identity=3, seed=0)


# Corpora as they are handed out

def test_grid_in_folders_and_archives_gives_the_same_store(tmp_path):
    folder = tmp_path/'GRID'
    for speaker, code in [('s1', 'bbaf2n'), ('s1', 'lwbz6p'), ('s2', 'bbaf2n')]: film(folder/speaker/f'{code}.mp4', seed=len(code + speaker))
    (folder/'alignments'/'s1').mkdir(parents=True)
    (folder/'alignments'/'s1'/'bbaf2n.align').write_text(ALIGN)
    (folder/'alignments'/'s1'/'lwbz6p.align').write_text('no times')
    packed = tmp_path/'PACKED'; packed.mkdir()
    with zipfile.ZipFile(packed/'s1.zip', 'w') as z:
        for f in sorted((folder/'s1').iterdir()): z.write(f, f's1/{f.name}')
        z.writestr('__MACOSX/s1/._bbaf2n.mp4', 'not ours')
    with tarfile.open(packed/'s2.mpg_6000.part1.tar', 'w') as t: t.add(folder/'s2'/'bbaf2n.mp4', 's2/video/mpg_6000/bbaf2n.mp4')
    with tarfile.open(packed/'alignments.tar.gz', 'w:gz') as t: t.add(folder/'alignments', 'alignments')
    one = prepare(folder, tmp_path/'one', workers=0, detector=steady, progress=False)
    two = prepare([str(packed)], tmp_path/'two', workers=0, detector=steady, progress=False)
    assert (one['clips'], one['failed']) == (two['clips'], two['failed']) == (3, 0)
    assert files(tmp_path/'one') == files(tmp_path/'two')
    assert len(one['notes']) == len(two['notes']) == 1 and 'lwbz6p.align is no list of word times' in two['notes'][0]
    store = Store(tmp_path/'one')
    assert store.all == ['s1/bbaf2n', 's1/lwbz6p', 's2/bbaf2n']
    assert store['s1/bbaf2n'].info['words'] == [['bin', .1, .25], ['blue', .25, .4]]
    assert 'words' not in store['s2/bbaf2n'].info # the word times of another speaker are not hers


def test_lrw_keeps_its_own_parts(tmp_path):
    video = film(tmp_path/'x.mp4', 29)
    for part in ('train', 'val', 'test'):
        for word in ('ABOUT', 'ABSOLUTELY'):
            (tmp_path/'LRW'/word/part).mkdir(parents=True)
            shutil.copy(video, tmp_path/'LRW'/word/part/f'{word}_00001.mp4')
    prepare(tmp_path/'LRW', tmp_path/'store', workers=0, detector=steady, progress=False)
    store = Store(tmp_path/'store')
    assert len(store) == 6 and store.speakers == ['ABOUT', 'ABSOLUTELY']
    assert store.names('test') == ['ABOUT/ABOUT_00001.test', 'ABSOLUTELY/ABSOLUTELY_00001.test']
    assert [part_of(n) for n in store.all[:3]] == ['test', 'train', 'validation']
    assert {len(clip) for _, clip in store.clips()} == {29}
    frames, landmarks, audio = store.read('ABOUT/ABOUT_00001.val', [0, 28])
    assert frames.shape == (2, 128, 128, 3) and len(landmarks) == 29 and len(audio) == 29*640


def test_names_that_look_like_lrw_but_are_not(tmp_path):
    assert data.clip_name(('films', 'train', 'holiday.mp4')) == 'train/holiday'
    assert data.clip_name(('ABOUT', 'train', 'OTHER_00001.mp4')) == 'train/OTHER_00001'
    assert split_of('bbaf2n-000') == split_of('bbaf2n') and data.clip_name(('x.mp4',)) == 'unnamed/x'


def test_a_member_cannot_leave_the_store(tmp_path):
    with zipfile.ZipFile(tmp_path/'evil.zip', 'w') as z: z.write(film(tmp_path/'x.mp4'), '../../evil.mp4')
    (tmp_path/'x.mp4').unlink()
    prepare(tmp_path/'evil.zip', tmp_path/'deep'/'store', workers=0, detector=steady, progress=False)
    assert Store(tmp_path/'deep'/'store').all == ['evil/evil']
    assert {p.name for p in tmp_path.iterdir()} == {'evil.zip', 'deep'}


def test_two_files_of_one_name(tmp_path):
    film(tmp_path/'a'/'ann'/'x.mp4'); film(tmp_path/'b'/'ann'/'x.mp4', 15)
    plan, left_out = plan_clips([tmp_path/'a', tmp_path/'b', tmp_path/'a'/'ann'/'x.mp4'])
    assert list(plan) == ['ann/x'] and len(left_out) == 1 and 'same name' in left_out[0]['reason']


# Videos of all kinds

def test_every_stretch_of_a_long_video_is_kept(tmp_path):
    video = film(tmp_path/'ann'/'talk.mp4', 60)
    seen = '0'*3 + '1'*17 + '0'*10 + '1'*13 + '0'*3 + '1'*2 + '0'*8 + '1'*4
    report = prepare(video, tmp_path/'store', workers=0, detector=seeing(seen), progress=False)
    assert (report['clips'], report['frames'], report['misses'], report['seconds']) == (2, 35, 3, 35/25)
    store = Store(tmp_path/'store')
    assert store.all == ['ann/talk-000', 'ann/talk-001']
    assert [clip.info['start'] for _, clip in store.clips()] == [3, 30]
    sound = prepare_clip(video, steady).audio
    assert np.abs(store['ann/talk-001'].audio - sound[30*640:48*640]).max() < 1e-4
    again = prepare(video, tmp_path/'store', workers=0, detector=seeing(''), progress=False)
    assert (again['clips'], again['skipped']) == (0, 1)


def test_long_stretches_are_cut_in_pauses(tmp_path):
    sound = noise(60); sound[24*640:29*640] = 0
    write_video(tmp_path/'talk.mp4', np.full((60, 128, 128, 3), 90, np.uint8), sound)
    clips = prepare_clips(tmp_path/'talk.mp4', steady, max_length=40)
    assert sum(map(len, clips)) == 60 and len(clips) == 2 and 24 <= len(clips[0]) <= 29
    assert len(prepare_clip(tmp_path/'talk.mp4', steady)) == 60
    silent = np.concatenate([noise(40), np.zeros(40*640, np.float32)])
    write_video(tmp_path/'quiet.mp4', np.full((80, 128, 128, 3), 90, np.uint8), silent)
    assert sum(map(len, prepare_clips(tmp_path/'quiet.mp4', steady, max_length=30))) < 60 # stretches in which nobody speaks are no talk


def test_clips_come_one_after_the_other(tmp_path):
    video = film(tmp_path/'talk.mp4', 60)
    first = next(iter_clips(video, seeing('1'*20 + '0'*20 + '1'*20)))
    assert len(first) == 20 # and the second was not made for it


def test_thirty_pictures_a_second(tmp_path):
    frames, sound = np.full((36, 128, 128, 3), 60, np.uint8), .01*noise(30)
    frames[24], sound[20*640:20*640 + 200] = 255, .9 # a flash and a click, at 0.8 s
    write_video(tmp_path/'clap.mp4', frames, sound, fps=30)
    clip, = prepare_clips(tmp_path/'clap.mp4', steady)
    assert len(clip) == 30 and clip.audio.shape == (30*640,)
    assert clip.frames.mean((1, 2, 3)).argmax() == np.abs(clip.audio).argmax()//640 == 20


def test_two_people_are_not_mixed(tmp_path, puppet):
    from atvg.puppet import puppet_clip
    other = puppet_clip('hello you', identity=8, seed=0)
    n = 14; large = np.stack([np.asarray(Image.fromarray(f).resize((192, 192))) for f in puppet.frames[:n]])
    frames = np.concatenate([large, np.pad(other.frames[:n], ((0, 0), (32, 32), (0, 32), (0, 0)), constant_values=90)], 2)
    write_video(tmp_path/'two.mp4', frames, noise(n))
    clip, = prepare_clips(tmp_path/'two.mp4')
    frames[6:9, :, :192] = 90 # the larger one, who is followed, is hidden; the other one stays
    write_video(tmp_path/'hidden.mp4', frames, noise(n))
    hidden, = prepare_clips(tmp_path/'hidden.mp4')
    assert len(hidden) == n and hidden.info['misses'] == 3
    rest = [*range(6), *range(9, n)]
    assert np.abs(hidden.landmarks[rest] - clip.landmarks[rest]).mean() < 1
    assert np.abs(hidden.frames[12].astype(float) - clip.frames[12]).mean() < 5


def test_a_face_missed_at_first_is_found_later(tmp_path, puppet):
    frames = puppet.frames[:16].copy(); frames[:2] = 90
    write_video(tmp_path/'late.mp4', frames, noise(16, 5))
    clip, = prepare_clips(tmp_path/'late.mp4')
    assert (len(clip), clip.info['start'], clip.info['misses']) == (14, 2, 0)
    assert np.abs(clip.landmarks - puppet.landmarks[2:16]).mean() < 3


# What is wrong with files

def test_sound_and_picture_of_different_length_are_told(tmp_path):
    silent = film(tmp_path/'x.mp4', 20, sound=False)
    for name, frames in dict(short=15, long=30, right=20).items():
        soundfile.write(tmp_path/'sound.wav', noise(frames), 16000)
        (tmp_path/'ann').mkdir(exist_ok=True)
        ffmpeg('-i', silent, '-i', tmp_path/'sound.wav', '-map', '0:v', '-map', '1:a', '-c:v', 'copy', '-c:a', 'pcm_s16le', tmp_path/'ann'/f'{name}.mkv')
    report = prepare(tmp_path/'ann', tmp_path/'store', workers=0, detector=steady, progress=False)
    assert report['clips'] == 3 and len(report['notes']) == 2
    assert 'long.mkv: the picture lasts 0.80 s, the sound 1.20 s' in report['notes'][0] and 'short.mkv' in report['notes'][1]
    for _, clip in Store(tmp_path/'store').clips(): assert len(clip) == 20 and clip.audio.shape == (20*640,)
    assert (Store(tmp_path/'store')['ann/short'].audio[16*640:] == 0).all()


def test_damage_is_told_by_reason_and_stops_nothing(tmp_path):
    folder = tmp_path/'ann'; good = film(folder/'good.mp4', 20)
    ffmpeg('-i', good, '-c', 'copy', folder/'cut.mkv')
    whole = (folder/'cut.mkv').read_bytes(); (folder/'cut.mkv').write_bytes(whole[:len(whole)//2])
    (folder/'text.mp4').write_text('not a video'); (folder/'text2.mp4').write_text('nor this'); (folder/'empty.mp4').write_bytes(b'')
    film(folder/'mute.mp4', sound=False)
    write_video(folder/'silent.mp4', np.full((14, 128, 128, 3), 90, np.uint8), np.zeros(14*640, np.float32))
    with zipfile.ZipFile(folder/'crc.zip', 'w') as z: z.write(good, 'bob/crc.mp4')
    packed = bytearray((folder/'crc.zip').read_bytes()); packed[len(packed)//2] ^= 255; (folder/'crc.zip').write_bytes(packed)
    (folder/'half.zip').write_bytes(packed[:len(packed)//2])
    report = prepare(folder, tmp_path/'store', workers=0, detector=steady, progress=False)
    assert (report['clips'], report['failed']) == (1, 8) and Store(tmp_path/'store').all == ['ann/good']
    assert report['kinds']['is a text file, not a video'] == 2
    for word in ('not a whole archive', 'cannot be unpacked', 'has no sound track', 'silent wherever', 'is empty'): assert any(word in kind for kind in report['kinds']), word
    for name in ('cut.mkv', 'text.mp4', 'empty.mp4', 'mute.mp4', 'silent.mp4', 'crc.zip/bob/crc.mp4', 'half.zip'): assert sum(f'ann/{name}' in r for r in report['reasons']) == 1, name
    assert [json.loads(line)['ok'] for line in (tmp_path/'store'/'report.jsonl').open()].count(True) == 1
    assert not list((tmp_path/'store').glob('*/.*'))


def test_nothing_to_prepare(tmp_path, capsys):
    (tmp_path/'notes.txt').write_text('x')
    assert main(['prepare', str(tmp_path), '-o', str(tmp_path/'store')]) == 2
    assert 'no videos found' in capsys.readouterr().err
    assert main(['prepare', str(tmp_path/'missing'), '-o', str(tmp_path/'store')]) == 2
    assert 'no such file or folder' in capsys.readouterr().err and not (tmp_path/'store').exists()


@needs_grid
def test_grid_as_it_is_distributed(tmp_path):
    clip = prepare_clip(GRID/'original'/'sbwu4n.mpg')
    assert len(clip) == 75 and clip.info['misses'] == 0 and abs(clip.info['sound_seconds'] - 3) < .05
    with pytest.raises(InputError, match='damaged'): prepare_clip(GRID/'original'/'bbaf2a.mpg', steady)
    (tmp_path/'s1').mkdir()
    shutil.copy(GRID/'s1'/'bbaf2n.mkv', tmp_path/'s1'); shutil.copy(GRID/'align'/'bbaf2n.align', tmp_path/'s1')
    prepare(tmp_path/'s1', tmp_path/'store', workers=0, detector=steady, progress=False)
    words = Store(tmp_path/'store')['s1/bbaf2n'].info['words']
    assert [w for w, *_ in words] == ['bin', 'blue', 'at', 'f', 'two', 'now'] and words[0][1:] == [.95, 1.18]


# Kill and resume

def start(command, log): return subprocess.Popen([sys.executable, '-m', 'atvg.cli', *map(str, command)], stdout=log, stderr=log, start_new_session=True)


def wait(what, seconds=300):
    end = time.time() + seconds
    while not what():
        assert time.time() < end, 'it took too long'
        time.sleep(.02)


def gone(group):
    "Whether no process of a group is left."
    try: os.killpg(group, 0)
    except ProcessLookupError: return True
    return False


def test_killed_five_times_the_store_is_the_same(tmp_path, puppet):
    rng, corpus, killed = np.random.default_rng(int(time.time())), tmp_path/'ann', tmp_path/'killed'
    corpus.mkdir(); grey = np.full((7, 128, 128, 3), 90, np.uint8)
    for k in range(4): write_video(corpus/f'{k}.mp4', puppet.frames[k:k + 12], noise(12, k))
    write_video(corpus/'film.mp4', np.concatenate([puppet.frames[:13], grey, puppet.frames[3:15]]), noise(32))
    (corpus/'broken.mp4').write_text('not a video')
    command = ['prepare', corpus, '-o', killed, '--workers', '1']
    with open(tmp_path/'log', 'w') as log:
        for turn in range(5):
            run = start(command, log)
            wait(lambda: len([p for p in killed.glob('*/*.npz') if p.name[0] != '.']) > turn or run.poll() is not None)
            time.sleep(rng.uniform(0, .5))
            run.send_signal(signal.SIGINT if turn == 2 else signal.SIGKILL); run.wait()
            wait(lambda: gone(run.pid)) # no worker outlives its parent
        run = start(command, log)
        assert run.wait() == 0, (tmp_path/'log').read_text()
    report = prepare(corpus, tmp_path/'whole', workers=0, progress=False)
    assert (report['clips'], report['failed']) == (6, 1)
    assert files(killed) == files(tmp_path/'whole') # every byte, and nothing half-written
    assert '1 x is a text file' in (tmp_path/'log').read_text()


# Reading

def test_reading_keeps_up_with_training(tmp_path, puppet):
    import torch
    from atvg.generator import VGNET_PRESETS, VGNet
    (tmp_path/'store'/'ann').mkdir(parents=True)
    for k in range(3): puppet.save(tmp_path/'store'/'ann'/f'{k}.npz')
    store = Store(tmp_path/'store'); net = VGNet(VGNET_PRESETS['small'])
    def drawing(k): return data.vgnet_batch(store, store.all, np.random.default_rng(k), batch=2, window=2)
    def training(k):
        batch = drawing(0); begin = time.process_time()
        net(batch['portrait'], batch['landmarks'], batch['portrait_landmarks']).frames.square().mean().backward()
        return time.process_time() - begin
    threads = torch.get_num_threads(); torch.set_num_threads(1) # processor time of one core; waiting threads would count
    try:
        drawing(0); training(0)
        begin = time.process_time(); [drawing(k) for k in range(4)]; draw = (time.process_time() - begin)/4
        assert draw < .2*training(1), 'drawing a batch takes more than a fifth of learning from it'
    finally: torch.set_num_threads(threads)


# Download

@pytest.fixture
def record(monkeypatch):
    "A public record on this machine: `bodies` by name; `cut` bytes an answer; what was asked for."
    class Server(ThreadingHTTPServer): daemon_threads = True
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args): pass
        def do_GET(self):
            s, begin = self.server, re.search('[0-9]+', self.headers.get('Range', ''))
            s.asked.append((self.path, begin and int(begin[0])))
            if s.status != 200: self.send_error(s.status); return
            begin = int(begin[0]) if begin and s.ranges else 0
            body = s.listing() if self.path == '/record' else s.bodies[self.path[1:]][begin:]
            self.send_response(206 if begin else 200); self.send_header('Content-Length', str(len(body))); self.end_headers()
            self.wfile.write(body if self.path == '/record' else body[:s.cut])
    server = Server(('127.0.0.1', 0), Handler)
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    base = f'http://127.0.0.1:{server.server_port}'
    server.url, server.asked, server.cut, server.status, server.ranges, server.wrong = f'{base}/record', [], None, 200, True, ()
    server.bodies = {n: np.random.default_rng(k).bytes(50000 + k) for k, n in enumerate(('s1.zip', 's2.zip', 's10.zip', 'alignments.zip', 'paper.pdf'))}
    md5 = lambda n: 'md5:' + ('0'*32 if n in server.wrong else hashlib.md5(server.bodies[n]).hexdigest())
    server.listing = lambda: json.dumps(dict(files=[dict(key=n, size=len(b), checksum=md5(n), links=dict(self=f'{base}/{n}')) for n, b in server.bodies.items()])).encode()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown(); server.server_close()


def got(folder): return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())}


def test_download_of_the_speakers_one_wants(record, tmp_path, capsys):
    assert main(['download', 'grid', '--speakers', '1-2', '-o', str(tmp_path/'GRID'), '--record', record.url]) == 0
    wanted = {n: record.bodies[n] for n in ('alignments.zip', 's1.zip', 's2.zip')}
    assert got(tmp_path/'GRID') == wanted and 'atvg prepare' in capsys.readouterr().out
    record.asked.clear()
    assert len(download_grid(tmp_path/'GRID', '1,2', record.url, progress=False)) == 3
    assert record.asked == [('/record', None)] # nothing arrives twice


def test_a_broken_connection_is_taken_up_again(record, tmp_path):
    record.cut = 20000
    download_grid(tmp_path, [1], record.url, progress=False)
    assert got(tmp_path) == {n: record.bodies[n] for n in ('alignments.zip', 's1.zip')}
    assert [begin for path, begin in record.asked if path == '/s1.zip'] == [None, 20000, 40000]


def test_a_download_goes_on_in_another_run(record, tmp_path):
    (tmp_path/'s1.zip.part').write_bytes(record.bodies['s1.zip'][:30000])
    download_grid(tmp_path, [1], record.url, progress=False)
    assert ('/s1.zip', 30000) in record.asked and got(tmp_path)['s1.zip'] == record.bodies['s1.zip']


def test_a_server_without_ranges_sends_all(record, tmp_path):
    record.ranges = False
    (tmp_path/'s1.zip.part').write_bytes(b'x'*30000)
    download_grid(tmp_path, [1], record.url, progress=False)
    assert got(tmp_path)['s1.zip'] == record.bodies['s1.zip']


def test_a_dead_connection_keeps_what_arrived(record, tmp_path):
    remote = read_record(record.url)[0]; record.cut = 0
    (tmp_path/'s1.zip.part').write_bytes(record.bodies['s1.zip'][:30000])
    with pytest.raises(InputError, match='broke off after 30000 of 50000'): fetch(remote, tmp_path)
    assert list(got(tmp_path)) == ['s1.zip.part']


def test_a_wrong_checksum_is_no_file(record, tmp_path, capsys):
    record.wrong = ('s2.zip',)
    assert main(['download', 'grid', '--speakers', '2', '-o', str(tmp_path), '--record', record.url]) == 2
    assert 's2.zip arrived damaged' in capsys.readouterr().err and 's2.zip' not in got(tmp_path) and 's2.zip.part' not in got(tmp_path)
    record.wrong = (); (tmp_path/'s2.zip.part').write_bytes(b'y'*20000) # a part of something else
    with pytest.raises(InputError, match='damaged'): download_grid(tmp_path, [2], record.url, progress=False)
    download_grid(tmp_path, [2], record.url, progress=False)
    assert got(tmp_path)['s2.zip'] == record.bodies['s2.zip']


def test_a_damaged_file_of_the_right_name_is_replaced(record, tmp_path):
    (tmp_path/'s1.zip').write_bytes(b'z'*len(record.bodies['s1.zip']))
    download_grid(tmp_path, [1], record.url, progress=False)
    assert got(tmp_path)['s1.zip'] == record.bodies['s1.zip']


def test_what_a_download_refuses(record, tmp_path, capsys):
    with pytest.raises(InputError, match='no speaker 3, 21; it has 1, 2, 10'): download_grid(tmp_path, '1,3,21', record.url)
    with pytest.raises(InputError, match='names no speakers'): download_grid(tmp_path, 's1', record.url)
    record.status = 503
    with pytest.raises(InputError, match='answers 503'): download_grid(tmp_path, [1], record.url)
    record.status, record.listing = 200, lambda: b'<html>'
    with pytest.raises(InputError, match='not a record'): download_grid(tmp_path, [1], record.url)
    record.listing = lambda: json.dumps(dict(files=[dict(key='../s1.zip', size=1, checksum='md5:0', links=dict(self='x'))])).encode()
    with pytest.raises(InputError, match='not a record'): download_grid(tmp_path, [1], record.url)
    assert main(['download', 'grid', '--speakers', '1', '-o', str(tmp_path), '--record', 'http://127.0.0.1:9/']) == 2
    assert 'connect to the network' in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_full_disk_is_told_before_the_first_byte(record, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(InputError, match='make room'): download_grid(tmp_path, [1], record.url)
    assert len(record.asked) == 1
