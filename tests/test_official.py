"""What the notebook 14_official cannot show: that the golden files are there, and that its table has the rows that docstrings name."""
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from atvg.clip import InputError
from atvg.official import KINDS, fill, official_names, official_network, to_ours

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT/'tests/golden'


def shapes(kind):
    return json.loads((GOLDEN/f'{kind}_state_dict.json').read_text())


def blank(kind):
    return {name: torch.empty(shape, device='meta') for name, shape in shapes(kind).items()}


def test_the_golden_files_are_there():
    for B in (1, 2):
        z = np.load(GOLDEN/f'official_b{B}.npz')
        assert z['at_out'].shape == (B, 16, 6) and z['vg_frames'].shape == (B, int(z['T']), 3, 16, 16)


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


def test_the_filled_at_net_gives_the_golden_numbers():
    net = official_network('atnet')
    net.load_state_dict(to_ours(fill(shapes('atnet')), 'atnet'))
    z = np.load(GOLDEN/'official_b1.npz')
    rng = np.random.default_rng(int(z['seed']))
    drawn = [rng.standard_normal(s).astype(np.float32) for s in ((1, 3, 128, 128), (1, int(z['T']), 136), (1, 136), (1, 16, 28, 12), (1, 6))]
    with torch.no_grad():
        out = net(torch.tensor(.3*drawn[4]), torch.tensor(10*drawn[3]))
    assert np.abs(out.numpy() - z['at_out']).max() < 1e-5


def test_every_row_that_a_docstring_names_is_in_the_table():
    cells = json.loads((ROOT/'nbs/14_official.ipynb').read_text())['cells']
    rows = set(re.findall(r'^\| \*\*(.+?)\*\* \|', '\n'.join(''.join(c['source']) for c in cells), re.M))
    used = set()
    for module in (ROOT/'atvg').glob('*.py'):
        used |= set(re.findall(r'deviations table: ([a-zA-Z][a-zA-Z -]*[a-zA-Z])', module.read_text()))
    assert {'recurrence', 'LMD'} <= used and used <= rows
