# make install   the package and what it needs, into .venv
# make demo      warm start, reinforcement learning, evaluation: 10 to 20 minutes on two cores, by the machine
# make test      what CI runs: install with the test extra, ruff, mypy, pytest
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
WORKDIR ?= runs/tiny
PYTEST_ARGS ?= -q -n 2 --dist worksteal
# What is never imported need not be compiled, and what is imported is compiled and kept on its first import.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile
# Without isolation the setuptools of .venv builds the three packages that have no wheel, instead of three of its copies.
INSTALL := $(PIP) --upgrade pip 'setuptools>=77' && $(PIP) --no-build-isolation --editable
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install install-test demo test lint types pytest clean

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "error: $(PYTHON) is not on PATH; install Python 3.11 or newer, or run: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); run: make PYTHON=python3.11" >&2; exit 1; }
	@echo "==> creating $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "error: $(PYTHON) cannot create virtual environments; install its venv module (python3-venv)" >&2; exit 1; }

# The stamps depend on setup.py alone, so a second `make test` installs nothing.
$(VENV)/.installed: setup.py | $(BIN)/python
	@echo "==> installing into $(VENV) (about a minute)"
	@$(INSTALL) .
	@touch $@

$(VENV)/.installed-test: setup.py | $(BIN)/python
	@echo "==> installing into $(VENV) with the test extra (a minute or two)"
	@$(INSTALL) '.[test]'
	@touch $(VENV)/.installed $@

# On Linux, large arrays then come in huge pages: an eighth off the training, to the same bits.
demo: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
# On two cores, decoding is no faster with two threads than with one, but with two devices of one thread each it is: a
# rollout takes 0.8 of the time. The warm start does not decode, and an evaluation runs on one device.
TWO_DEVICES := --xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false
TRAIN_FLAGS := $(if $(filter 2,$(shell nproc 2>/dev/null)),XLA_FLAGS='$(TWO_DEVICES) $(XLA_FLAGS)')
demo: install
	@echo "==> warm start"
	@$(BIN)/python -m memalpha_jax.warmstart --config=experiments/tiny.py --workdir=$(WORKDIR)
	@echo "==> reinforcement learning"
	@$(TRAIN_FLAGS) $(BIN)/python -m memalpha_jax.train --config=experiments/tiny.py --workdir=$(WORKDIR)
	@echo "==> evaluation"
	@$(BIN)/python -m memalpha_jax.evaluate --workdir=$(WORKDIR)

test: lint types pytest

lint: install-test
	@echo "==> ruff check"
	@$(BIN)/ruff check .
	@echo "==> ruff format --check"
	@$(BIN)/ruff format --check .

types: install-test
	@echo "==> mypy"
	@$(BIN)/mypy

pytest: install-test
	@echo "==> pytest"
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
