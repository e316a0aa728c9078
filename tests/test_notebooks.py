"""Every notebook runs from top to bottom, through nbdev's own runner, in a process of its own."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT/'nbs').glob('[!_.]*.ipynb'))
RUN = '''
import sys
from nbdev.test import test_nb
passed, seconds = test_nb(sys.argv[1], skip_flags=['slow'], basepath=sys.argv[2])
sys.exit(not passed)
'''


def run(notebook):
    "The exit code, and the failed cell with its traceback. One thread, so that small trainings give the same numbers on any number of cores."
    done = subprocess.run([sys.executable, '-c', RUN, notebook, ROOT], cwd=notebook.parent, capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='1'))
    return done.returncode, re.sub(r'\x1b\[[0-9;]*m', '', done.stderr).strip()


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(notebook):
    code, message = run(notebook)
    if code: pytest.fail(f'{notebook.name} (exit code {code})\n{message[-6000:]}', pytrace=False)


def test_a_failing_cell_is_reported(tmp_path):
    cell = '{"cell_type": "code", "id": "%s", "metadata": {}, "execution_count": null, "outputs": [], "source": ["%s"]}'
    cells = ', '.join([cell % ('first', 'value = 2'), cell % ('second', 'assert value == 3')])
    notebook = tmp_path/'broken.ipynb'
    notebook.write_text('{"cells": [%s], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}' % cells)
    code, message = run(notebook)
    assert code == 1
    assert 'assert value == 3' in message and 'AssertionError' in message
