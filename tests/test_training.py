"""Training as the world treats it: shared by real processes, killed at random, interrupted; and always the same numbers."""
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from atvg.clip import Clip, InputError
from atvg.data import Store
from atvg.training import ATNET_RECIPES, VGNET_RECIPES, ATNetTrainer, Processes, VGNetTrainer, load_weights, read_log, train_atnet, train_vgnet

TRAINERS = dict(atnet=(ATNetTrainer, ATNET_RECIPES['tiny']), vgnet=(VGNetTrainer, VGNET_RECIPES['tiny']))
SIZES = dict(atnet=dict(batch=2, window=8), vgnet=dict(batch=2, window=2))
STEPS, MOST = 40, 300  # seconds that anything here may take before it counts as hanging

starter = multiprocessing.get_context('forkserver')
starter.set_forkserver_preload(['atvg.training'])


def noise_clip(seed, frames=16):
    "A clip of smooth noise: enough to train on, and made at once."
    rng = np.random.default_rng(seed); t = np.linspace(0, 6, frames)[:, None]
    picture = np.kron(rng.integers(40, 200, (16, 16, 3)), np.ones((8, 8, 1)))
    base, moves = rng.uniform(30, 98, (68, 2)), rng.normal(0, 2, (6, 136))
    landmarks = base + (np.sin(t + rng.uniform(0, 6, 6)) @ moves).reshape(frames, 68, 2)
    return Clip((picture + 20*np.sin(t)[..., None, None]).clip(0, 255).astype(np.uint8), landmarks, rng.normal(0, .1, frames*640))


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    "Two people; by their codes one sentence validates and the others train."
    folder = tmp_path_factory.mktemp('store')
    for k, name in enumerate(('p0/bbaf2n', 'p0/swiu1n', 'p1/lwbz6p')):
        (folder/name).parent.mkdir(exist_ok=True); noise_clip(k).save(folder/f'{name}.npz')
    return folder


def recipe_of(network): return replace(TRAINERS[network][1], steps=STEPS, validate_every=8, save_every=3, **SIZES[network])


def work(network, store, out):
    "What a killed process did, and what goes on in its place."
    torch.set_num_threads(1)
    TRAINERS[network][0](Store(store), out, recipe_of(network), seed=1, bfloat16=False).fit(resume=True, progress=False)


def start(*args):
    process = starter.Process(target=work, args=args); process.start()
    return process


def rows_of(out): return len(read_log(out)) if (out/'log.jsonl').exists() else 0


def wait_for_rows(process, out, rows):
    end = time.time() + MOST
    while rows_of(out) < rows and process.is_alive() and time.time() < end: time.sleep(.01)


def state_of(out):
    "Everything in a checkpoint as flat (name, value) pairs."
    def walk(x, name=''):
        if isinstance(x, dict):
            for k, v in x.items(): yield from walk(v, f'{name}/{k}')
        elif isinstance(x, (list, tuple)):
            for k, v in enumerate(x): yield from walk(v, f'{name}/{k}')
        else: yield name, x
    return dict(walk(torch.load(out/'last.pt', weights_only=True)))


def same_training(a, b):
    assert read_log(a) == read_log(b)
    one, two = state_of(a), state_of(b)
    assert one.keys() == two.keys()
    for name, x in one.items(): assert torch.equal(x, two[name]) if isinstance(x, torch.Tensor) else x == two[name], name
    best, other = load_weights(a/'weights.safetensors'), load_weights(b/'weights.safetensors')  # not the bytes: a file's header has no fixed order
    assert best[1] == other[1]
    for x, y in zip(best[0].state_dict().values(), other[0].state_dict().values(), strict=True): assert torch.equal(x, y)


@pytest.fixture(scope='module', params=list(TRAINERS))
def undisturbed(request, store, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)/'out'
    process = start(request.param, store, out); process.join(MOST)
    assert process.exitcode == 0
    return SimpleNamespace(network=request.param, out=out)


# Killed and interrupted

def test_killed_at_random_five_times(undisturbed, store, tmp_path):
    "SIGKILL cannot be caught. The last kills come late, so that there is something to lose."
    out, seed = tmp_path/'out', random.randrange(10**6); rng = random.Random(seed)
    print('seed of the kills:', seed)
    for k in range(5):
        process = start(undisturbed.network, store, out)
        wait_for_rows(process, out, rng.randint(k*STEPS//8, (k + 1)*STEPS//8)); time.sleep(rng.uniform(0, .03))
        process.kill(); process.join(MOST)
        assert process.exitcode == -signal.SIGKILL, f'kill {k} of seed {seed} came too late'
    process = start(undisturbed.network, store, out); process.join(MOST)
    assert process.exitcode == 0
    same_training(undisturbed.out, out)
    assert not list(out.glob('.*')), 'what a kill left half-written is swept away'


def test_a_run_killed_before_its_first_checkpoint_starts_again(store, tmp_path):
    out = tmp_path/'out'; out.mkdir()
    (out/'log.jsonl').write_text('{"step": 0, "loss": 7}\n{"step": 1, "lo')
    train_atnet(store, out, 'tiny', progress=False, resume=True, bfloat16=False, steps=2, batch=1, window=4)
    assert [r['step'] for r in read_log(out)] == [0, 1] and read_log(out)[0]['loss'] != 7


def test_ctrl_c_saves(undisturbed, store, tmp_path):
    out = tmp_path/'out'
    process = start(undisturbed.network, store, out); wait_for_rows(process, out, 4)
    os.kill(process.pid, signal.SIGINT); process.join(MOST)
    assert process.exitcode == 1  # the interrupt is raised once everything is saved
    done = state_of(out)['/step']
    assert 4 <= done < STEPS and rows_of(out) == done
    process = start(undisturbed.network, store, out); process.join(MOST)
    same_training(undisturbed.out, out)


# Two processes

TWICE = """# atvg with twice the digits: whatever asks for float32 gets float64
import torch, torch.nn.functional as F
sample = F.grid_sample
F.grid_sample = lambda x, places, **how: sample(x, places.to(x.dtype), **how)
torch.Tensor.float = torch.Tensor.double
torch.set_default_dtype(torch.float64)
from atvg.cli import main
main()
"""


def train(network, store, out, options, processes=1, program=('-m', 'atvg.cli')):
    "`atvg train` in one process or two; its log."
    launch = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(processes)] if processes > 1 else []
    command = [*program, 'train', network, '--data', str(store), '--out', str(out), '--precision', 'float32', *(f'--{k}={v}' for k, v in options.items())]
    done = subprocess.run([sys.executable, *launch, *command], capture_output=True, text=True, timeout=2*MOST,
                          env=os.environ | dict(ACCELERATE_USE_CPU='true', OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('weights.safetensors') == 1, 'only the first process reports'
    return read_log(out)


@pytest.mark.parametrize('network', TRAINERS)
def test_two_processes_equal_one(network, store, tmp_path):
    """Batch normalisation, gradients, clipping, carried states and all terms of the losses over two real processes.

    Of the adversarial pair three steps are compared, at the paper's rate: Adam's first steps have one length whatever the
    gradient's, so they make differences of rounding as large as steps, and the pair feeds them back to each other. The next
    test looks further."""
    options = dict(preset='tiny', batch=4, seed=3) | dict(atnet=dict(steps=10), vgnet=dict(steps=3, lr=2e-4))[network]
    two = train(network, store, tmp_path/'two', options, processes=2)
    run = train_atnet if network == 'atnet' else train_vgnet
    average = run(store, tmp_path/'one', progress=False, bfloat16=False, **options)
    one = read_log(tmp_path/'one')
    assert len(one) == len(two) == options['steps'] and one[0].keys() == two[0].keys()
    for a, b in zip(one, two):
        for key in a: assert b[key] == pytest.approx(a[key], abs=1e-4, rel=1e-2 if key == 'gradient' else 1e-5), (a['step'], key)
    assert sorted(p.name for p in (tmp_path/'two').iterdir() if p.is_file()) == ['last.pt', 'log.jsonl', 'weights.safetensors']
    both, record, _ = load_weights(tmp_path/'two'/'weights.safetensors')
    assert record['processes'] == 2 and both.config == average.config


def test_what_parts_two_processes_from_one_is_rounding(store, tmp_path):
    "With twice the digits the adversarial pair stays together for as long as we look, at the preset's own rate."
    program = tmp_path/'twice.py'; program.write_text(TWICE)
    options = dict(preset='tiny', steps=8, batch=4, seed=3)
    one, two = (train('vgnet', store, tmp_path/str(n), options, n, [str(program)]) for n in (1, 2))
    for a, b in zip(one, two, strict=True): assert b == pytest.approx(a, abs=1e-6, rel=1e-6)
    assert one[-1]['pixels'] != one[0]['pixels']


def shared_by(count):
    processes = Processes(); processes.count = count
    return processes


def test_a_batch_that_cannot_be_shared(store, tmp_path):
    with pytest.raises(InputError, match='multiple of 3'):
        ATNetTrainer(Store(store), tmp_path/'out', replace(ATNET_RECIPES['tiny'], batch=4), bfloat16=False, processes=shared_by(3))
    assert not (tmp_path/'out').exists()


@pytest.mark.parametrize('change', ['--lr=-1', '--lr=nan', '--steps=0', '--batch=0', '--seed=-1'])
def test_a_recipe_that_trains_nothing(change, store, tmp_path, capsys):
    from atvg.cli import main
    assert main(['train', 'vgnet', '--data', str(store), '--out', str(tmp_path/'out'), '--preset', 'tiny', '--precision', 'float32', change]) == 2
    name, value = change[2:].split('='); told = capsys.readouterr().err
    assert name in told and value in told and len(told.splitlines()) == 1
    assert not (tmp_path/'out').exists()


def test_the_released_recurrence_is_not_shared(store, tmp_path):
    with pytest.raises(InputError, match='one process'):
        VGNetTrainer(Store(store), tmp_path/'out', VGNET_RECIPES['official'], bfloat16=False, processes=shared_by(2))


# The command line

@pytest.mark.parametrize('precision, bfloat16', [('auto', None), ('float32', False), ('bfloat16', True)])
def test_precision(precision, bfloat16, monkeypatch):
    from atvg import training
    from atvg.cli import main
    calls = []; monkeypatch.setattr(training, 'train_vgnet', lambda *args, **options: calls.append(options))
    assert main(['train', 'vgnet', '--data', 'store', '--out', 'out', '--precision', precision]) == 0
    assert calls == [dict(bfloat16=bfloat16)]
