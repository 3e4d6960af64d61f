# Needs Python 3.11 to 3.13, git and make. `make help` lists what there is.
#
#   make setup PIP_ARGS="--index-url URL_OF_THE_CPU_BUILD"   (pytorch.org/get-started names it)
#   make tune CODEC=jpeg MAX_STEPS=50

PYTHON ?= python3
PIP_ARGS ?=
# Processes that run tests side by side; 0 runs them in one.
WORKERS ?= 2
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The one of the unseen codecs here on which tuning shows most in a few minutes.
CODEC := gif
# Options of `make tune`, taken only from make's own command line: a variable BASE or ARGS that happens to be in
# the environment must not change a training.
given = $(if $(filter command,$(origin $(1))),$(2) "$($(1))")
ARGS :=
TUNE_FLAGS = $(call given,MAX_STEPS,--max_train_steps) $(call given,OUTPUT_DIR,--output_dir) \
	$(call given,BASE,--pretrained_model_name_or_path) $(call given,TRAINABLE,--trainable) \
	$(call given,QUALITIES,--qualities)

# All flags that `accelerate launch` would otherwise guess with a warning. Without a thread count it sets one
# thread for a single process, and half of a 2-core machine stays idle. No --cpu: a GPU is used where there is one.
# --quiet: when the recipe stops with an error, that error is the last thing printed, not the launcher's traceback.
THREADS = $$($(BIN)/python -c "import os; print(os.environ.get('OMP_NUM_THREADS') or os.cpu_count())")
LAUNCH = $(BIN)/accelerate launch --quiet --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
	--num_cpu_threads_per_process $(THREADS)

.DEFAULT_GOAL := help
.PHONY: help setup tune experiments docs bench test test-slow lint clean clean-all

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## */  make \1|/' | \
		awk -F '|' '{ printf "%-18s %s\n", $$1, $$2 }'
	@echo
	@echo '  PYTHON=python3.12  PIP_ARGS="..." for pip   WORKERS=2 test processes   PYTEST_ARGS="..."'
	@echo '  make tune: CODEC=gif MAX_STEPS=n OUTPUT_DIR=dir BASE=base TRAINABLE=dpm QUALITIES="10 20" ARGS="..."'

setup: $(STAMP)  ## make .venv with the versions of constraints.txt

# The stamp is younger than both files exactly when the environment fits them.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: there is no $(PYTHON); install Python 3.11 to 3.13," \
		"or name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c "import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) or sys.exit('error: Python 3.11 to 3.13 \
	is needed and $(PYTHON) is %d.%d; name another one: make $(MAKECMDGOALS) PYTHON=python3.12' \
	% sys.version_info[:2])"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[dev,video,more]"
	@touch $(STAMP)

tune: $(STAMP)  ## tune a prompt adapter for CODEC on the embedded base and images
	$(LAUNCH) recipes/tune_prompts.py --codec $(CODEC) $(strip $(TUNE_FLAGS) $(ARGS))

experiments: $(STAMP)  ## make missing cells of recipes/experiments.toml: BUDGET=90m ARGS="--jobs 2 --data DATA"
	$(BIN)/python recipes/run_experiments.py $(call given,BUDGET,--budget) $(ARGS)

docs: $(STAMP)  ## fill the tables and plots of the pages from results/ (ARGS=--check compares)
	for script in docs/make_*.py; do $(BIN)/python $$script $(ARGS) || exit 1; done

lint: $(STAMP)  ## ruff, mypy (strict), codespell, stray blanks and large files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	git ls-files -z | xargs -0 $(BIN)/python .ci/check_files.py

# SwinIR and RRDB come with spandrel, Swin2SR with transformers. Without their dependencies: spandrel's names
# torchvision, which replaces a CPU build of PyTorch by gigabytes.
bench: $(STAMP)  ## compare time and memory with SwinIR, Swin2SR and RRDB; docs/performance.md lists all benchmarks
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps $(PIP_ARGS) "spandrel>=0.4" "einops>=0.8"
	$(BIN)/python benchmarks/inference.py $(ARGS)

test: lint  ## lint, then the tests and doctests that are not slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not hub" -n $(WORKERS) $(PYTEST_ARGS)

test-slow: $(STAMP)  ## the tests marked slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and not hub" $(PYTEST_ARGS)

clean:  ## remove caches and built packages; runs/ and .venv stay
	rm -rf build dist test-reports .pytest_cache .ruff_cache .mypy_cache
	find ucip_adapt recipes tests -type d -name __pycache__ -prune -exec rm -rf {} +

clean-all: clean  ## the same, and .venv
	rm -rf $(VENV)
