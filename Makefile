# Two commands, which both set up .venv on first use. `make demo` shows vpbench at work in a few minutes (four epochs
# instead of the suite's twelve), `make test` proves it. `make check` checks the published
# rows, and compares a small grid with the numbers of a good version.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test sweep test-all check lint clean

demo: $(VENV)/.installed
	$(BIN)/vpbench run --suite mini --epochs 4
	$(BIN)/vpbench report --table 1

# A process per core with one thread each: more threads than cores only wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal --durations 20 --durations-min 5

test: $(VENV)/.tested
	$(PYTEST)

# Every method, preset and backbone family through the checks that `make test` makes with some of them, and the long forms of others.
sweep: $(VENV)/.tested
	$(PYTEST) -m 'sweep and not slow'

test-all: test sweep

check: $(VENV)/.installed
	$(BIN)/vpbench check --contribution results/published
	$(BIN)/vpbench check --baseline results/baselines/ci.parquet

lint: $(VENV)/.tested
	$(BIN)/python -m pip install --quiet '.[dev]'
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	cd / && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p vpbench

clean:
	rm -rf $(VENV) build *.egg-info

# The sources of vpbench are reinstalled when one of them is newer than the last installation.
SOURCES := pyproject.toml setup.py $(shell find vpbench methods benchmarks reports -name '*.py' -o -name '*.toml' -o -name '*.safetensors' -o -name '*.txt' -o -name '*.csv' -o -name '*.html' -o -name '*.css' -o -name '*.js')

$(VENV)/.installed: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[test]'
	touch $@
