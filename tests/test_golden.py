"""Parity with the released networks: their numbers lie in tests/golden, mutants of ours miss them, their checkpoints are imported."""
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from atvg.clip import InputError
from atvg.official import KINDS, fill, import_official, official_names, official_network, read_checkpoint, to_ours

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT/'tests/golden'


def shapes(kind):
    return json.loads((GOLDEN/f'{kind}_state_dict.json').read_text())


def blank(kind):
    return {name: torch.empty(shape, device='meta') for name, shape in shapes(kind).items()}


@pytest.fixture(scope='module')
def weights():
    return {kind: fill(shapes(kind)) for kind in KINDS}


@pytest.fixture
def nets(weights):
    def make(kind):
        net = official_network(kind, 'meta')
        net.load_state_dict(to_ours(weights[kind], kind), assign=True)
        return net
    return make


def golden(B):
    z = np.load(GOLDEN/f'official_b{B}.npz')
    rng, T = np.random.default_rng(int(z['seed'])), int(z['T'])
    f = lambda *s: torch.from_numpy(rng.standard_normal(s).astype(np.float32))
    x = dict(image=f(B, 3, 128, 128).tanh(), landmarks=.5*f(B, T, 136), example=.5*f(B, 136))
    return x | dict(audio=10*f(B, 16, 28, 12), h=.3*f(B, 6), frames=f(B, 16, 3, 128, 128).tanh()), z


@torch.no_grad()
def outputs(kind, net, x):
    if kind == 'atnet': return dict(at_out=net(x['h'], x['audio']))
    if kind == 'discriminator':
        score, landmarks = net(x['frames'], x['example'])
        return dict(d_score=torch.sigmoid(score), d_landmarks=landmarks)
    y = net(x['image'], x['landmarks'], x['example'])
    return dict(vg_frames=y.frames[..., ::8, ::8], vg_attention=y.attention[..., ::8, ::8], vg_motion=y.motion[..., ::8, ::8],
                vg_feature_attention=y.feature_attention[..., ::4, ::4])


def worst(kind, net, B):
    x, z = golden(B)
    return max(float(np.abs(y.numpy() - z[name]).max()) for name, y in outputs(kind, net, x).items())


@pytest.mark.parametrize('B', [1, 2])
@pytest.mark.parametrize('kind', KINDS)
def test_outputs_are_the_golden_numbers(kind, B, nets):
    assert worst(kind, nets(kind), B) < 1e-5


def undilate(net):
    for conv in (net.gru.input, net.gru.hidden): conv.dilation, conv.padding = (1, 1), (1, 1)


def over_time(net):
    net.config = replace(net.config, recurrence='time')


def no_feature_attention(net):
    net.feature_attention.register_forward_hook(lambda module, inputs, output: torch.ones_like(output))


def swapped(net):
    net.feature_attention.register_forward_pre_hook(lambda module, inputs: torch.cat(inputs[0].chunk(2, 1)[::-1], 1))


@pytest.mark.parametrize('mutate', [undilate, over_time, no_feature_attention, swapped])
def test_a_mutant_misses_them(mutate, nets):
    net = nets('vgnet')
    mutate(net)
    assert worst('vgnet', net, 2) > 1e-3


def test_parameter_counts():
    counts = [sum(p.numel() for p in official_network(kind, 'meta').parameters()) for kind in ('atnet', 'vgnet', 'discriminator')]
    assert counts == [30_071_750, 58_355_781, 21_491_473]


@pytest.mark.parametrize('kind', KINDS)
def test_names_there_and_back(kind):
    names = official_names(kind)
    assert names.keys() == shapes(kind).keys()
    assert sorted(names.values()) == sorted(official_network(kind, 'meta').state_dict())


@pytest.mark.parametrize('kind', KINDS)
def test_the_module_prefix_is_taken_off(kind):
    plain = blank(kind)
    ours = to_ours({f'module.{name}': x for name, x in plain.items()}, kind)
    assert all(ours[b] is plain[a] for a, b in official_names(kind).items())


@pytest.mark.parametrize('kind', KINDS)
def test_a_foreign_checkpoint_is_refused(kind):
    for foreign in ({}, {'conv.weight': torch.zeros(1)}, {'state_dict': blank(kind)}, None, blank(KINDS[KINDS.index(kind) - 1])):
        with pytest.raises(InputError, match=f'no checkpoint of the released {kind}'):
            to_ours(foreign, kind)


@pytest.fixture(scope='module')
def files(weights, tmp_path_factory):
    "The four released files, made from the filling: AT-net in the old format behind `module.`, VG-net in the new one without."
    folder, rng = tmp_path_factory.mktemp('released'), np.random.default_rng(0)
    torch.save({f'module.{name}': x for name, x in weights['atnet'].items()}, folder/'atnet.pth', _use_new_zipfile_serialization=False)
    torch.save(weights['vgnet'], folder/'vgnet.pth')
    np.save(folder/'basis.npy', np.linalg.qr(rng.normal(size=(136, 136)))[0])
    np.save(folder/'mean.npy', rng.normal(0, .3, 136))
    return {name: folder/f'{name}.{"npy" if name in ("basis", "mean") else "pth"}' for name in ('atnet', 'vgnet', 'basis', 'mean')}


def command(files, out, **other):
    return ['import-official', *(x for name, path in (files | other).items() for x in (f'--{name}', str(path))), '-o', str(out)]


def test_the_command_imports_and_the_face_gives_the_golden_numbers(files, tmp_path, capsys):
    from atvg.cli import main
    from atvg.talk import SAMPLES, TalkingFace
    assert main(command(files, tmp_path/'official')) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path/'official')
    face = TalkingFace.from_pretrained(tmp_path/'official')
    x, z = golden(1)
    with torch.no_grad():
        assert np.abs(face.atnet(x['h'], x['audio']).numpy() - z['at_out']).max() < 1e-5
        frames = face.generator(x['image'], x['landmarks'], x['example']).frames[..., ::8, ::8]
    assert np.abs(frames.numpy() - z['vg_frames']).max() < 1e-5
    video = face.generate(SAMPLES/'portrait.png', .1*np.random.default_rng(0).normal(size=3200).astype(np.float32), sample_rate=16000)
    assert video.frames.shape == (5, 128, 128, 3) and video.landmarks.shape == (5, 68, 2)


def test_the_released_demonstration_step_by_step(files, tmp_path):
    "Raw MFCC, constant portrait, gains on the absolute coefficients, mean + U h, one pass without memory."
    from atvg.audio import audio_windows
    from atvg.clip import to_frames, to_tensor
    from atvg.official import CONSTANT, GAINS
    from atvg.talk import SAMPLES, TalkingFace, open_portrait
    face = TalkingFace.from_pretrained(import_official(**files, out=tmp_path/'official'))
    speech = .1*np.random.default_rng(1).normal(size=3200).astype(np.float32)
    nobody = open_portrait(SAMPLES/'portrait.png')
    U, mean = np.load(files['basis'])[:, :6], np.load(files['mean'])
    with torch.no_grad():
        coefs = face.atnet(torch.tensor(CONSTANT)[None], torch.from_numpy(audio_windows(speech))[None].float())[0].numpy()*GAINS
        landmarks, example = (torch.from_numpy((mean + c@U.T)[None].astype(np.float32)) for c in (coefs, CONSTANT))
        frames = to_frames(face.generator(to_tensor(nobody.crop)[None], landmarks, example).frames[0])
    assert coefs.shape == (5, 6)
    heard = face.hear(speech, nobody.landmarks)
    apart = np.abs((heard - 64)/64 - landmarks.numpy().reshape(5, 68, 2)).max(-1)
    assert (apart[:, [i for i in range(68) if i not in (61, 62, 63, 65, 66, 67)]] < 1e-4).all()  # lips that cross are brought together
    drawn = face.draw(nobody.crop, nobody.landmarks, landmarks.numpy().reshape(5, 68, 2)*64 + 64)[0]
    assert np.abs(drawn.astype(int) - frames.astype(int)).max() <= 1


@pytest.mark.parametrize('name, content, says', [
    ('atnet', b'hello', 'not a PyTorch checkpoint|no checkpoint'), ('vgnet', b'', 'not a PyTorch checkpoint|no checkpoint'),
    ('basis', b'hello', 'not a NumPy array'), ('mean', None, 'no such file')])
def test_junk_is_one_sentence_and_leaves_nothing(name, content, says, files, tmp_path, capsys):
    from atvg.cli import main
    junk = tmp_path/'junk.bin'
    if content is not None: junk.write_bytes(content)
    assert main(command(files, tmp_path/'official', **{name: junk})) == 2
    error = capsys.readouterr().err.strip()
    assert re.search(says, error) and 'junk.bin' in error and '\n' not in error
    assert not (tmp_path/'official').exists()


@pytest.mark.parametrize('swap', [('atnet', 'vgnet'), ('basis', 'mean')])
def test_exchanged_files_are_named(swap, files, tmp_path, capsys):
    from atvg.cli import main
    a, b = swap
    assert main(command(files, tmp_path/'official', **{a: files[b], b: files[a]})) == 2
    assert files[b].name in capsys.readouterr().err and not (tmp_path/'official').exists()


class Evil:
    def __reduce__(self): return exec, ('raise SystemExit("this must not run")',)


@pytest.mark.parametrize('new', [True, False])
def test_a_checkpoint_never_runs_code(new, tmp_path):
    torch.save({'a': Evil()}, tmp_path/'evil.pth', _use_new_zipfile_serialization=new)
    with pytest.raises(InputError, match='evil.pth.*more than numbers'): read_checkpoint(tmp_path/'evil.pth')


def test_every_row_that_a_docstring_names_is_in_the_table():
    cells = json.loads((ROOT/'nbs/14_official.ipynb').read_text())['cells']
    rows = set(re.findall(r'^\| \*\*(.+?)\*\* \|', '\n'.join(''.join(c['source']) for c in cells), re.M))
    used = set()
    for module in (ROOT/'atvg').glob('*.py'):
        used |= {row.strip() for rows_named in re.findall(r'deviations table: ([a-zA-Z][^).";:]*)', module.read_text()) for row in re.split(r', (?!and others)', rows_named)}
    used = {row for row in used if 'others' not in row}
    assert {'recurrence', 'LMD'} <= used and used <= rows, used - rows
