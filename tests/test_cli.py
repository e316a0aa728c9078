"""The command line: what it hands to the library, and what it says when something is wrong."""
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from atvg.clip import InputError
from atvg.cli import Progress, main

ATVG = Path(sys.executable).with_name('atvg')


class Recorder:
    "Stands in for a function of the library: remembers its calls, raises or returns what it is told to."

    def __init__(self, result=None): self.calls, self.error, self.result = [], None, result

    def __call__(self, *args, **kwargs):
        self.calls.append((args, kwargs))
        if self.error: raise self.error
        return self.result


def a_video():
    return SimpleNamespace(frames=np.zeros((50, 128, 128, 3), np.uint8), fps=25, info=dict(warnings=['two faces'], seconds=dict(speech=.25)),
                           save=lambda path: Path(path).write_text('video'), storyboard=lambda path: Path(path).write_text('board'))


@pytest.fixture
def library(monkeypatch):
    "Replace a module of the library by one with a single recorded function."
    def replace(module, name, result=None):
        fake = ModuleType(module)
        setattr(fake, name, Recorder(result))
        monkeypatch.setitem(sys.modules, module, fake)
        monkeypatch.setattr(sys.modules['atvg'], module.removeprefix('atvg.'), fake, raising=False)
        return getattr(fake, name)
    return replace


@pytest.fixture
def talk(library):
    "The recorder of `generate` (and of `demo`); its `load` is that of `from_pretrained`."
    recorder = library('atvg.talk', 'demo', a_video())
    recorder.load = Recorder(SimpleNamespace(generate=recorder))
    sys.modules['atvg.talk'].TalkingFace = SimpleNamespace(from_pretrained=recorder.load)
    return recorder


# What it hands over

def test_generate(talk, tmp_path, capsys):
    out = tmp_path/'out.mp4'
    assert main(['generate', 'face.jpg', 'speech.wav', '-o', str(out)]) == 0
    (args, options), = talk.calls
    assert args == ('face.jpg', 'speech.wav') and set(options) == {'progress'}
    assert talk.load.calls == [((), {})]
    assert out.read_text() == 'video'
    said = capsys.readouterr()
    assert str(out) in said.out and '50 frames, 2.00 s' in said.out and re.search(r'speech +0.25 s', said.out)
    assert said.err == 'atvg: warning: two faces\n'


def test_generate_with_every_option(talk, tmp_path):
    out, board = str(tmp_path/'out.mp4'), str(tmp_path/'out.png')
    main(['generate', 'face.jpg', 'speech.wav', '-o', out, '--storyboard', board, '--weights', 'w', '--detector', 'face-alignment', '--device', 'cuda:1',
          '--gain', '1.5', '--smooth', '0', '--seed', '3', '--label', '--paste-back'])
    (_, options), = talk.calls
    options.pop('progress')
    assert options == dict(gain=1.5, smooth=0.0, seed=3, label=True, paste_back=True)
    assert talk.load.calls == [((), dict(weights='w', detector='face-alignment', device='cuda:1'))]
    assert Path(board).read_text() == 'board'


def test_demo(talk, tmp_path, capsys):
    assert main(['demo', '-o', str(tmp_path)]) == 0
    assert talk.calls[0][0] == (tmp_path,)
    assert str(tmp_path/'talking.mp4') in capsys.readouterr().out


@pytest.mark.parametrize('clips, code', [(3, 0), (0, 2)])
def test_prepare(library, capsys, clips, code):
    prepare = library('atvg.data', 'prepare')
    prepare.result = dict(clips=clips, skipped=0, failed=1, frames=75 * clips, misses=0, reasons=['b.mp4: no face.'])
    assert main(['prepare', 'a.mp4', 'videos', '-o', 'store', '--workers', '2']) == code
    assert prepare.calls == [((['a.mp4', 'videos'], 'store'), dict(workers=2))]
    said = capsys.readouterr()
    assert f'store: {clips} clips prepared' in said.out and said.err == 'atvg: left out: b.mp4: no face.\n'


@pytest.mark.parametrize('network', ['atnet', 'vgnet'])
def test_train(library, network):
    train = library('atvg.training', f'train_{network}')
    assert main(['train', network, '--data', 'store', '--out', 'run', '--preset', 'tiny', '--steps', '5', '--resume']) == 0
    assert train.calls == [(('store', 'run'), dict(preset='tiny', steps=5, resume=True))]


def test_an_interrupted_training_says_how_to_go_on(library, capsys):
    library('atvg.training', 'train_atnet').error = KeyboardInterrupt()
    assert main(['train', 'atnet', '--data', 'store', '--out', 'run']) == 130
    assert '--resume' in capsys.readouterr().err


def test_evaluate(library, tmp_path, capsys):
    evaluate, out = library('atvg.evaluate', 'evaluate'), str(tmp_path/'scores.json')
    evaluate.result = SimpleNamespace(table=lambda: 'the table')
    assert main(['evaluate', '--data', 'store', '--weights', 'w', '--limit', '4', '-o', out]) == 0
    assert evaluate.calls == [(('store',), dict(output=out, weights='w', limit=4))]
    assert capsys.readouterr().out == f'the table\n{out}\n'


@pytest.mark.parametrize('works, code', [(True, 0), (False, 2)])
def test_check(monkeypatch, works, code):
    monkeypatch.setattr('atvg.check.check', lambda: works)
    assert main(['check']) == code


# What it says when something is wrong

def test_bad_input_is_one_sentence_and_2(talk, tmp_path, capsys):
    talk.error = InputError('face.jpg: no face was found.')
    assert main(['generate', 'face.jpg', 'speech.wav', '-o', str(tmp_path/'out.mp4')]) == 2
    assert capsys.readouterr() == ('', 'atvg: face.jpg: no face was found.\n')
    assert not list(tmp_path.iterdir())


def test_interrupt_is_130(talk, tmp_path, capsys):
    talk.error = KeyboardInterrupt()
    assert main(['generate', 'face.jpg', 'speech.wav', '-o', str(tmp_path/'out.mp4')]) == 130
    assert capsys.readouterr().err == 'atvg: interrupted\n'


def test_our_own_fault_is_not_hidden(talk, tmp_path):
    talk.error = ValueError('not the input')
    with pytest.raises(ValueError): main(['generate', 'face.jpg', 'speech.wav', '-o', str(tmp_path/'out.mp4')])


@pytest.mark.parametrize('output, reason', [('missing/out.mp4', 'does not exist'), ('out.avi', 'must end in .mp4'), ('folder.mp4', 'is a folder')])
def test_an_output_that_cannot_be_is_told_before_the_work(talk, tmp_path, capsys, output, reason):
    (tmp_path/'folder.mp4').mkdir()
    assert main(['generate', 'face.jpg', 'speech.wav', '-o', str(tmp_path/output)]) == 2
    message, = capsys.readouterr().err.splitlines()
    assert message.startswith('atvg: ') and reason in message
    assert not talk.calls


def test_a_locked_folder_is_told_before_the_work(talk, tmp_path, monkeypatch, capsys):
    def refuse(*args, **kwargs): raise PermissionError
    monkeypatch.setattr('pathlib.Path.touch', refuse)
    assert main(['generate', 'face.jpg', 'speech.wav', '-o', str(tmp_path/'out.mp4')]) == 2
    assert 'cannot be written to' in capsys.readouterr().err and not talk.calls


def test_nothing_half_written_stays(talk, tmp_path):
    talk.result.storyboard = Recorder()
    talk.result.storyboard.error = OSError('no space left')
    with pytest.raises(OSError): main(['generate', 'face.jpg', 'speech.wav', '-o', str(tmp_path/'out.mp4'), '--storyboard', str(tmp_path/'out.png')])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('line', ['', 'sing', 'generate face.jpg', 'generate face.jpg speech.wav -o out.mp4 --gain loud', 'train gan --data a --out b'])
def test_a_wrong_command_line_is_2(line):
    done = subprocess.run([ATVG, *line.split()], capture_output=True, text=True)
    assert done.returncode == 2 and 'usage: atvg' in done.stderr and 'Traceback' not in done.stderr


@pytest.mark.parametrize('command', ['demo', 'generate', 'prepare', 'train', 'evaluate', 'check'])
def test_every_command_explains_itself(command):
    done = subprocess.run([ATVG, command, '--help'], capture_output=True, text=True, check=True)
    assert f'usage: atvg {command}' in done.stdout


def test_progress_shows_each_stage_once(capsys):
    with Progress() as progress:
        for stage in ('speech', 'frames'):
            for fraction in (0, .5, 1): progress(stage, fraction)
    last = [line for line in capsys.readouterr().err.replace('\r', '\n').splitlines() if '100%' in line]
    assert [line.split()[0] for line in last] == ['speech', 'frames']
