# Two commands do all the set-up: `make scaling` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: scaling quickstart test lint bench clean

scaling: $(READY)  ## the main job: about 10 minutes on 2 CPU cores
	$(BIN)/python -m harness run suites/scaling.yaml

quickstart: $(READY)  ## the same on a small scale: 2 to 3 minutes
	$(BIN)/python -m harness run suites/quickstart.yaml

test: $(READY)  ## the whole test suite, what can on up to four cores
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadgroup -m "not alone"
	$(BIN)/python -m pytest -m alone

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## speed, as ratios within one run
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
