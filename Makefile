# Every target sets up what it needs in .venv; `make` alone lists them. A fresh clone needs Python 3.11 or newer and the network once.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
READY := .venv/.ready
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# A developer's own nbdev, Jupyter or PYTHONPATH settings must not change what is exported or executed.
unexport PYTHONPATH PYTHONHOME

.PHONY: help setup demo test notebooks pytest lab serve prep clean export readme lint check slow

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 20

setup: $(READY) ## .venv with drivekd and all that develops and tests it
$(READY): settings.ini setup.py constraints.txt
	@if [ -z "$(PYTHON)" ]; then echo "drivekd needs Python 3.11 or newer and found none; install it or name one: make PYTHON=/path/to/python3" >&2; exit 1; fi
	if [ ! -x .venv/bin/pip ]; then
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	  $(PYTHON) -m venv .venv
	fi
	echo "setting up .venv (a few minutes the first time)"
	.venv/bin/python -m pip install -qq -c constraints.txt -e '.[dev,moo,lora]'
	touch $@

demo: $(READY) ## distil the miniature driving model: outputs/distill*/report.html
	@drivekd run distill

test: notebooks pytest ## every chapter, then every test

# Run notebooks are executed by tests/ with small parameters (.notest beside them keeps nbdev away).
notebooks: $(READY)
	@echo "executing the chapters"
	export OMP_NUM_THREADS=1  # two workers share the cores
	nbdev_test --n_workers 2 --timing
pytest: $(READY)
	@pytest -n 2 --dist loadfile

lab: $(READY) ## JupyterLab on the notebooks, with this .venv as kernel (more flags: LAB='--no-browser')
	@jupyter lab --ServerApp.root_dir='$(CURDIR)' --LabApp.default_url=/lab/tree/nbs/index.ipynb $(LAB)

# Voila's pages name fonts and MathJax at public addresses; the policy in voila.json keeps browsers from asking anybody but Voila.
serve: $(READY) ## the explorers as live pages without code (Voila), for this machine alone, with a token (more flags: SERVE='--port=8890')
	@.venv/bin/python -m pip install -qq -c constraints.txt -e '.[serve]'
	@voila nbs/explorers --Voila.ip=127.0.0.1 --token --no-browser --Voila.config_file_paths=nbs/explorers $(SERVE)

prep: $(READY) ## before a commit: clean, export, README, test
	@$(MAKE) clean export readme lint test

clean: $(READY) # volatile output and metadata out of the notebooks
	@nbdev_clean
export: $(READY) # nbs/ → drivekd/
	@nbdev_export
readme: $(READY) # nbs/index.ipynb → README.md
	@python tests/readme.py
lint: $(READY)
	@ruff check .

check: ## what CI runs: all of the above must change nothing, then `make test`
	@bash .ci/run

slow: $(READY) ## the tests that take minutes
	@pytest -m slow
