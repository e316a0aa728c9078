"""What the experiments' notebooks cannot show: the command line, a runner killed by the system, and stored results that fit the code."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atvg.cli import main

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT/'data'/'results').glob('claim*.json'))

# A training of 12 steps on noise that takes its time, so that it can be killed between two of them.
LEARNER = '''
import sys, time
import numpy as np
from atvg.clip import Clip
from atvg.experiments import Experiment, PainterRecipe, PainterTrainer, Shelf, label, trained

class Slow(PainterTrainer):
    def step(self, step, batch):
        time.sleep(float(sys.argv[2])); print('step', step, flush=True)
        return super().step(step, batch)

def run(settings, seed, root):
    r = np.random.default_rng(0)
    faces = r.uniform(30, 90, (12, 68, 2)).astype(np.float32)
    clip = Clip(r.integers(0, 256, (12, 128, 128, 3), np.uint8), faces, r.normal(0, .1, 12*640).clip(-1, 1).astype(np.float32))
    recipe = PainterRecipe(steps=12, batch=2, save_every=2)
    net, _ = trained(Slow, Shelf({'a/0': clip, 'a/1': clip}), root, label('net', settings, seed), recipe, seed)
    return dict(weights=[float(p.double().sum()) for p in net.parameters()])

result = Experiment('killed', {}, {'arm': {'steps': 12}}, run, seeds=(0, 1)).go(sys.argv[1], progress=False)
print([r['scores'] for r in result['runs']])
'''


def learner(root, pause, **kwargs):
    return subprocess.Popen([sys.executable, '-c', LEARNER, root, str(pause)], stdout=subprocess.PIPE, text=True, env=os.environ | dict(OMP_NUM_THREADS='1'), **kwargs)


def test_a_killed_runner_goes_on_to_the_same_numbers(tmp_path):
    whole = learner(tmp_path/'whole', 0).communicate(timeout=120)[0].splitlines()
    assert len(whole) == 25
    process = learner(tmp_path/'killed', .2)
    lines = []
    while len(lines) < 18: lines.append(process.stdout.readline())     # the first run is complete, the second is half way
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [p.name for p in (tmp_path/'killed'/'killed').iterdir()] == ['arm-0.json']
    again = learner(tmp_path/'killed', 0).communicate(timeout=120)[0].splitlines()
    assert again[-1] == whole[-1]
    assert 0 < len(again) - 1 <= 12 and 'step 0' not in again           # nothing complete was made again, and what was half made went on


# The command

def test_unknown_experiment(capsys, tmp_path):
    assert main(['experiments', 'claim99', '--root', str(tmp_path/'runs'), '-o', str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert 'claim99' in said and 'claim1' in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path/'runs').exists()


def test_missing_folder_of_results(capsys, tmp_path):
    assert main(['experiments', 'claim1', '--root', str(tmp_path/'runs'), '-o', str(tmp_path/'nowhere')]) == 2
    assert 'nowhere' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_missing_material_is_told_at_the_end(capsys, tmp_path, monkeypatch):
    "An experiment that lacks its store does not keep the next one from being made."
    from atvg import experiments
    def lacking(settings, seed, root): raise experiments.InputError('there is no store')
    runs = dict(first=lacking, second=lambda settings, seed, root: dict(score=seed))
    monkeypatch.setattr(experiments, 'claims', lambda: {name: experiments.Experiment(name, {}, {'arm': {}}, run) for name, run in runs.items()})
    assert main(['experiments', '--root', str(tmp_path/'runs'), '-o', str(tmp_path)]) == 2
    assert 'first: there is no store' in capsys.readouterr().err
    assert json.loads((tmp_path/'second.json').read_text())['summary']['arm']['score']['mean'] == 1
    assert not (tmp_path/'first.json').exists()


def test_real_speech_without_its_store(capsys, tmp_path, monkeypatch):
    "One sentence that names the folder and the remedy, and no result."
    monkeypatch.chdir(tmp_path)
    assert main(['experiments', 'claim2-grid', '--root', str(tmp_path/'runs'), '-o', str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert 'stores/grid: no such folder of prepared clips' in said and '`atvg prepare' in said and said.count('atvg:') == 1
    assert not [p for p in tmp_path.rglob('*') if p.is_file()]


# Stored results

@pytest.mark.parametrize('path', RESULTS, ids=lambda path: path.stem)
def test_stored_result_belongs_to_the_experiment(path):
    "Same arms, same settings, at least three seeds: a result that was made by other code than the notebook shows is not shown."
    from atvg.evaluate import plain
    from atvg.experiments import Results, claims
    experiment, result = claims()[path.stem], Results.load(path)
    assert result['arms'] == plain(experiment.arms)
    assert len(result['seeds']) >= 3
    assert {(r['arm'], r['seed']) for r in result['runs']} == {(arm, seed) for arm in experiment.arms for seed in result['seeds']}
    assert result['command'] == f'atvg experiments {path.stem}'
    assert result['protocol'] == experiment.protocol
    assert all(r['code']['version'] for r in result['runs'])
