"""Parity with the released networks: their numbers lie in tests/golden, mutants of ours miss them, their checkpoints are imported."""
import io
import json
import pickle
import re
import shutil
import struct
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from atvg.clip import InputError
from atvg.official import KINDS, fill, import_official, official_names, official_network, read_checkpoint, read_network, to_ours

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT/'tests/golden'


def shapes(kind):
    return json.loads((GOLDEN/f'{kind}_state_dict.json').read_text())


def blank(kind):
    return {name: torch.empty(shape, device='meta') for name, shape in shapes(kind).items()}


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path):
    yield
    shutil.rmtree(tmp_path)  # pytest would keep gigabytes of weights


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


def uncancelled(net):
    # only the frame's landmarks: the portrait's are not subtracted
    net.fuse.register_forward_pre_hook(lambda module, inputs: inputs[0] + F.pad(portrait_feature(net, len(inputs[0])), (0, 0, 0, 0, 8*net.config.width, 0)))


def portrait_feature(net, n):
    feature = net.landmark_feature(net.encode_landmarks(golden(2)[0]['example']))
    return feature.repeat_interleave(n//len(feature), dim=0)


def sound_first(net):
    net.lstm.register_forward_pre_hook(lambda module, inputs: (inputs[0].roll(256, -1), *inputs[1:]))


def told_apart(net):
    net.config = replace(net.config, residual=True)


def image_first(net):
    net.lstm.register_forward_pre_hook(lambda module, inputs: (inputs[0].roll(512, -1), *inputs[1:]))


def forgetful(net):
    net.lstm.register_forward_hook(lambda module, inputs, output: (module(inputs[0].flatten(0, 1)[:, None])[0].view_as(output[0]), None) if inputs[0].shape[1] > 1 else None)


MUTANTS = [('vgnet', undilate), ('vgnet', over_time), ('vgnet', no_feature_attention), ('vgnet', swapped), ('vgnet', uncancelled),
           ('atnet', sound_first), ('atnet', told_apart), ('discriminator', image_first), ('discriminator', forgetful)]


@pytest.mark.parametrize('kind, mutate', MUTANTS, ids=lambda x: getattr(x, '__name__', x))
def test_a_mutant_misses_them(kind, mutate, nets):
    net = nets(kind)
    mutate(net)
    assert worst(kind, net, 2) > 1e-3


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
    yield {name: folder/f'{name}.{"npy" if name in ("basis", "mean") else "pth"}' for name in ('atnet', 'vgnet', 'basis', 'mean')}
    shutil.rmtree(folder)


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
    assert np.abs((heard - 64)/64 - landmarks.numpy().reshape(5, 68, 2)).max() < 1e-4
    other = face.hear(speech, nobody.landmarks + 5)  # whoever it is
    assert (other == heard).all()
    drawn = face.draw(nobody.crop, nobody.landmarks, landmarks.numpy().reshape(5, 68, 2)*64 + 64)[0]
    assert np.abs(drawn.astype(int) - frames.astype(int)).max() <= 1


class Python2(pickle._Pickler):
    "Writes what Python 2.7 and PyTorch 0.4 wrote: byte strings for str, an OrderedDict from a list of pairs, storages on a GPU."
    dispatch = dict(pickle._Pickler.dispatch)

    def __init__(self, file, storages):
        super().__init__(file, 2)
        self.storages = storages

    def byte_string(self, text):
        self.write(pickle.SHORT_BINSTRING + bytes([len(text)]) + text.encode())
        self.memoize(text)

    def ordered(self, names):
        self.save_reduce(OrderedDict, ([[k, v] for k, v in names.items()],), vars(names) or None, obj=names)

    def tensor(self, x):
        key = str(140_000_000 + len(self.storages))
        self.storages[key] = x
        self.save_reduce(torch._utils._rebuild_tensor_v2, (Storage(key), 0, tuple(x.shape), x.stride(), False, OrderedDict()), obj=x)

    def persistent_id(self, x):
        if not isinstance(x, Storage): return None
        tensor = self.storages[x.key]
        return 'storage', torch.FloatStorage if tensor.is_floating_point() else torch.LongStorage, x.key, 'cuda:0', tensor.numel(), None

    dispatch |= {str: byte_string, OrderedDict: ordered, torch.Tensor: tensor}


class Storage:
    def __init__(self, key): self.key = key


def save_as_python2(state, path):
    file, storages = io.BytesIO(), {}
    sizes = dict(protocol_version=1001, little_endian=True, type_sizes=dict(short=2, int=4, long=4))
    for part in (0x1950a86a20f9469cfc6c, 1001, sizes, state): Python2(file, storages).dump(part)
    Python2(file, {}).dump(sorted(storages))
    for key in sorted(storages): file.write(struct.pack('<q', storages[key].numel()) + storages[key].contiguous().numpy().tobytes())
    path.write_bytes(file.getvalue())


def test_a_checkpoint_of_python_2_and_an_early_pytorch(weights, tmp_path):
    state = OrderedDict((f'module.{name}', x) for name, x in weights['atnet'].items() if 'num_batches' not in name)
    state._metadata = OrderedDict(module=dict(version=1))
    save_as_python2(state, tmp_path/'atnet_lstm_18.pth')
    assert b'U' + bytes([len('module.lstm.bias_ih_l0')]) + b'module.lstm.bias_ih_l0' in (tmp_path/'atnet_lstm_18.pth').read_bytes()
    assert worst('atnet', read_network(tmp_path/'atnet_lstm_18.pth', 'atnet'), 1) < 1e-5


@pytest.mark.parametrize('dtype', [torch.float16, torch.float64])
def test_every_precision_is_read_as_float32(dtype, weights, tmp_path):
    torch.save({name: x.to(dtype) if x.is_floating_point() else x for name, x in weights['atnet'].items()}, tmp_path/'atnet.pth')
    net = read_network(tmp_path/'atnet.pth', 'atnet')
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert worst('atnet', net, 1) < (1e-5 if dtype == torch.float64 else .05)


def test_a_damaged_file_is_one_sentence(tmp_path):
    file, rng = tmp_path/'damaged.pth', np.random.default_rng(0)
    for new in (True, False):
        torch.save({f'module.{i}': torch.randn(5, 5) for i in range(5)}, file, _use_new_zipfile_serialization=new)
        whole = file.read_bytes()
        for _ in range(60):
            broken = bytearray(whole[:rng.integers(1, len(whole))] if rng.random() < .5 else whole)
            for at in rng.integers(len(broken), size=rng.integers(1, 6)): broken[at] = rng.integers(256)
            file.write_bytes(broken)
            try: to_ours(read_checkpoint(file), 'atnet')
            except InputError as error: assert '\n' not in str(error)


def test_an_output_that_cannot_be(files, tmp_path, capsys):
    from atvg.cli import main
    (tmp_path/'file').write_text('mine')
    for out in ('file', 'file/below'):
        assert main(command(files, tmp_path/out)) == 2
        error = capsys.readouterr().err.strip()
        assert out in error and '\n' not in error
    assert (tmp_path/'file').read_text() == 'mine'


def test_a_failure_while_writing_leaves_the_old_weights(files, tmp_path, monkeypatch):
    from atvg import training
    out = tmp_path/'official'
    out.mkdir()
    for kind in ('atnet', 'vgnet'): (out/f'{kind}.safetensors').write_text('old')
    save = training.save_weights
    def disk_full(path, net, *args, **kwargs):
        if type(net).__name__ == 'VGNet': raise OSError('no space left')
        save(path, net, *args, **kwargs)
    monkeypatch.setattr(training, 'save_weights', disk_full)
    with pytest.raises(OSError): import_official(**files, out=out)
    assert {p.name: p.read_text() for p in out.iterdir()} == {f'{kind}.safetensors': 'old' for kind in ('atnet', 'vgnet')}


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


def source(notebook):
    return '\n'.join(''.join(cell['source']) for cell in json.loads((ROOT/f'nbs/{notebook}.ipynb').read_text())['cells'])


def table():
    "Rows of the deviations table: number to name and its last cell."
    rows = [line.split(' | ') for line in source('14_official').splitlines() if line.startswith('| <a id="D')]
    return {row[0].split('</a>')[1]: (row[1].strip('*'), row[-1]) for row in rows}


def test_the_rows_are_numbered_and_complete():
    rows = table()
    assert set(rows) == {f'D{i + 1}' for i in range(len(rows))} and len(rows) >= 19  # in the order of their subjects
    assert source('14_official').count('| <a id="D') == len(rows), 'a number stands twice'
    assert len({name for name, _ in rows.values()}) == len(rows)


def test_every_row_that_a_docstring_names_is_in_the_table():
    used = set()
    for module in (ROOT/'atvg').glob('*.py'):
        used |= {row.strip() for rows_named in re.findall(r'deviations table: ([a-zA-Z][^).";:]*)', module.read_text()) for row in re.split(r', (?!and others)', rows_named)}
    used = {row for row in used if 'others' not in row}
    rows = {name for name, _ in table().values()}
    assert {'recurrence', 'LMD'} <= used and used <= rows, used - rows


def test_every_row_leads_to_sections_that_exist():
    for number, (name, see) in table().items():
        links = re.findall(r'\[([^]`]+)\]\((?:(\w+)\.ipynb)?#([^)]+)\)', see)
        assert links, f'{number} {name} shows nothing'
        for text, notebook, anchor in links:
            headings = re.findall(r'^#+ (.+)$', source(notebook or '14_official'), re.M)
            assert text in headings and anchor == text.replace(' ', '-'), f'{number}: no section {text!r} in {notebook}'


COMPONENTS = ['01_audio', '03_pca', '06_atnet', '07_generator', '08_pixel_loss', '09_discriminator', '10_metrics']


@pytest.mark.parametrize('notebook', COMPONENTS)
def test_components_link_to_their_rows(notebook):
    linked = re.findall(r'\[(D\d+)\]\(14_official\.ipynb#(D\d+)\)', source(notebook))
    assert all(text == anchor for text, anchor in linked)
    shown_here = {number for number, (_, see) in table().items() if f'({notebook}.ipynb)' in see}
    assert shown_here <= {text for text, _ in linked} <= set(table()), shown_here - {text for text, _ in linked}
