# make train   trains a DenseASPP network on generated street scenes, on a CPU, in minutes
# make test    runs the default tests; make test-slow those that take long
# Each creates .venv first if it is missing, and installs what it needs. Another Python: make test PYTHON=python3.12
# Two processes share the tests; with less than 12 GB of memory: make test WORKERS=1
PYTHON ?= python3
WORKERS ?= 2
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed_dev
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help train test test-slow lint format clean

help:
	@sed -n 's/^# //p' Makefile

train: $(INSTALLED)
	$(BIN)/python train.py --config=configs/street_scenes.py --workdir=runs/street_scenes

test: $(INSTALLED_DEV)
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile $(PYTEST_ARGUMENTS)

test-slow: $(INSTALLED_DEV)
	$(BIN)/python -m pytest -m 'slow and not gpu' --numprocesses=$(WORKERS) --dist=loadfile $(PYTEST_ARGUMENTS)

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

format: $(INSTALLED_DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# CONSTRAINTS=constraints.txt installs exactly the versions that CI tests.
define install
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip
	$(PIP) install --quiet --editable $(1) $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
	@touch $(INSTALLED)
endef

# Byte code is written at the first import; pip would compile ten times as many modules as training imports.
$(INSTALLED): pyproject.toml
	$(call install,. $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile))

$(INSTALLED_DEV): pyproject.toml
	$(call install,'.[dev]')
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .import_linter_cache
