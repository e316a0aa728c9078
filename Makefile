# Everything runs in .venv, which is made when missing; a second call finds it ready.
PYTHON ?= python3
# Any torch from 2.4 on will do. One that is already in .venv stays; else this one comes first,
# so that no other requirement chooses a larger build.
TORCH ?= torch==2.13.0

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
METADATA := settings.ini setup.py pyproject.toml

.PHONY: demo test experiments lab env dev export clean-nbs readme help
.DELETE_ON_ERROR:

help:           ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

demo: env       ## a portrait and a recording become talking.mp4 and talking.png
	$(BIN)/atvg demo

test: dev       ## every notebook, one test each, and everything in tests/
	$(BIN)/python -m pytest

experiments: dev  ## every stored result of the claims, from nothing; a second call goes on where the first was stopped
	$(BIN)/atvg experiments

# JupyterLab drops messages over 10 MB unless told otherwise; the demos answer larger uploads themselves.
lab: dev        ## the notebooks and demos in JupyterLab; under /voila at its address the demos as plain pages
	$(BIN)/jupyter lab --ServerApp.tornado_settings='{"websocket_max_message_size": 134217728}' nbs

env: .venv/.installed      ## the environment: what a user needs
dev: .venv/.installed-dev  ## the environment: with JupyterLab, nbdev, pytest and every extra

export: dev     ## notebooks -> atvg/
	$(BIN)/nbdev-export

clean-nbs: dev  ## take run numbers and other noise out of the notebooks
	$(BIN)/nbdev-clean

readme:         ## nbs/index.ipynb -> README.md
	$(PYTHON) tools/readme.py

# An environment without pip is a half-made one: it is made again.
.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/.torch: | .venv/bin/pip
	$(PIP) show --quiet torch 2>/dev/null || $(PIP) install $(TORCH)
	touch $@

.venv/.installed: $(METADATA) | .venv/.torch
	$(PIP) install --editable .
	touch $@

.venv/.installed-dev: $(METADATA) | .venv/.torch
	$(PIP) install --editable '.[dev]'
	touch .venv/.installed $@
