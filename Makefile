# make sweep and make test need Python 3.11 or newer and a package registry, nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.DEFAULT_GOAL := help
# The tests of `make quick`: some of every folder of src, one story that types commands, none that needs MNIST.
QUICK := tests/test_layers.py tests/test_public.py tests/test_errors.py tests/test_masking.py tests/test_states.py \
  tests/config/test_parsing.py tests/config/test_fingerprint.py tests/planning tests/files \
  tests/journal/test_log.py tests/execution/test_progress.py tests/training/test_checks.py \
  tests/hydra_adapter/test_sweep_values.py tests/results/test_selection.py tests/results/test_conditions.py \
  tests/tracking/test_params.py tests/tracking/test_address.py \
  tests/inference/test_predictor.py tests/hydra_adapter/test_sweeper.py \
  tests/test_cli.py::test_the_table_is_of_the_latest_sweep_best_first tests/test_cli.py::test_a_mistake_is_one_clear_line

.PHONY: help sweep quick test test-public matrix check licences format docs dist ui bench chaos fuzz constraints clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

sweep: .venv/installed  ## train three learning rates on MNIST and print the table
	$(BIN)/python train.py -m optimizer.lr=0.001,0.01,0.1

quick: .venv/installed  ## the tests that matter most, in under a minute on two free cores
	$(BIN)/python -m pytest $(QUICK)

test: .venv/installed  ## all tests
	$(BIN)/python -m pytest

test-public: .venv/installed  ## all tests, without what relies on private parts of Hydra and MLflow; takes much longer
	SWEEPSTACK_NO_TRICKS=1 $(BIN)/python -m pytest

matrix: .venv/installed  ## all tests on each Python that is installed, with Hydra 1.3 and 1.4; more in `noxfile.py`
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[matrix]"
	PYENV_VERSION=$$(pyenv versions --bare 2> /dev/null | sort -rV | paste -sd:) $(BIN)/nox # pyenv hides all but one Python

check: .venv/installed  ## format, lint and types of src, tests and benchmarks; of src also as Windows has them
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/windows src

licences: .venv/installed  ## the licences of all dependencies; ends with an error if one is not free
	$(BIN)/python -m tests.licences

format: .venv/installed  ## format all files, and mend what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/installed  ## the documentation as a site, in site/; ends with an error on a warning or a broken link
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

dist: .venv/installed  ## wheel and sdist, in dist/, checked; then an empty environment trains with the wheel
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dist]"
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	wheel="$$(ls $(CURDIR)/dist/*.whl)"; folder="$$(mktemp -d)"; unset MLFLOW_TRACKING_URI PYTHONPATH; set -e; \
	  $(PYTHON) -m venv "$$folder/env"; "$$folder/env/bin/pip" install --quiet "$$wheel"; \
	  PATH="$$folder/env/bin:$$PATH"; cd "$$folder"; sweepstack new "a project"; cd "a project"; \
	  python train.py -m dataset=digits model=mlp optimizer.lr=0.1,0.3 epochs=2; \
	  python -m unittest; sweepstack table; rm -rf "$$folder"

ui: .venv/installed  ## browse in MLflow's UI
	$(BIN)/sweepstack ui

bench: .venv/installed  ## side by side with peers, as ratios; takes an hour, on a machine that does nothing else
	$(BIN)/python benchmarks/epoch.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python benchmarks/stack.py --plot docs/stack_cost.svg
	$(BIN)/python benchmarks/halving.py
	$(BIN)/python benchmarks/search.py --seeds 5
	$(BIN)/python benchmarks/search_regret.py
	$(BIN)/python benchmarks/grid.py
	$(BIN)/python benchmarks/grid.py --epochs 5 --peers
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/checkpoint.py
	$(BIN)/python benchmarks/table.py
	$(BIN)/python benchmarks/false_marks.py
	$(BIN)/python benchmarks/public_tables.py
	$(BIN)/python benchmarks/tuning_curves.py

chaos: .venv/installed  ## kill sweeps, servers and databases at random moments, and compare; takes an hour
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[chaos,dask,slurm]"
	$(BIN)/python tests/chaos.py --kills 100
	$(BIN)/python -m tests.damages --damages 1000
	$(BIN)/python benchmarks/search_chaos.py --moments 30

fuzz: .venv/installed  ## 10,000 command lines and config files that nobody would type, and 500 whole commands
	$(BIN)/python tests/fuzz.py

constraints: .venv/installed  ## the newest versions that the ranges admit
	$(BIN)/pip-compile --quiet --upgrade --all-extras --strip-extras --allow-unsafe --no-header --no-annotate \
	  --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file constraints.txt pyproject.toml

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:  ## remove the environment, builds and outputs of Hydra; mlruns stays
	rm -rf .venv build dist site multirun outputs
