# Two commands do everything on a fresh machine with Python >= 3.11 and make:
#   make verify   sets up and runs the main job
#   make test     sets up and passes the checks and the tests

PYTHON ?= python3
BIN := .venv/bin

# Tiny problems in both widths, with bytes and with whole numbers as amounts: numba keeps on disk what
# they compile, so that the first solve of a user waits for nothing.
define COMPILE
import torch
import lp_routing as lpr
for dtype in (torch.float32, torch.float64):
    for copies in (None, [1, 2, 3, 1]):
        scores = torch.rand(4, 3, dtype=dtype)
        often = 1 if copies is None else copies
        problem = lpr.RoutingProblem(
            scores, tokens=lpr.exactly(often), experts=lpr.at_most(4), multiplicity=copies
        )
        assert lpr.solve(problem).status is lpr.Status.OPTIMAL
endef
export COMPILE

.PHONY: help setup tools verify check browser test wheel docs clean

help:
	@echo "make verify   prove the optima on the sample and measure the quick rules (a minute)"
	@echo "make test     lint, types, architecture, tests (11 minutes on two cores)"
	@echo "make check    lint and types alone (a minute)"
	@echo "make wheel    build the wheel and try it in an environment of its own (3 minutes)"
	@echo "make docs     the documentation as HTML, warnings as errors (build/docs/index.html; 2 minutes)"
	@echo "make setup    what make verify needs, in .venv (3 minutes, 1.8 GB), done by it when needed"
	@echo "make tools    what the others need besides (2 minutes, 0.9 GB), done by them when needed"
	@echo "make clean    remove .venv and caches"

setup: .venv/ready
tools: .venv/tools

PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "lp_routing needs Python 3.11 or newer; say which: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "[1/3] creating the virtual environment .venv (10 seconds)"
	@$(PYTHON) -m venv .venv
	@echo "[2/3] installing the package, torch for the CPU and solvers into .venv (1.8 GB; 2 minutes)"
	@$(PIP) .
	@$(BIN)/python -c 'import lp_routing, torch, highspy, cvxpy, matplotlib'
	@echo "[3/3] compiling the kernels of MinCostFlow, once (a minute)"
	@$(BIN)/python -c "$$COMPILE"
	@touch .venv/ready

.venv/tools: .venv/ready
	@echo "installing tools for tests, docs and benchmarks into .venv (0.9 GB; 2 minutes)"
	@$(PIP) '.[test,bench,docs,notebooks]'
	@$(BIN)/python -c 'import ortools, pylmcf, ot, pytest, sphinx'
	@touch .venv/tools

verify: setup
	@echo "proving 28 optima of the sample with three solvers (a minute)"
	@$(BIN)/lp-routing verify --jobs all

check: tools
	@echo "== ruff: lint and format (a second)"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== mypy: types (a minute)"
	@$(BIN)/mypy

browser: tools
	@sh tests/install_chromium.sh

test: check browser
	@echo "== pytest: tests and architecture, a process a core (11 minutes on two cores)"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

wheel: tools
	@echo "== the wheel, in an environment of its own (3 minutes)"
	@PYTHON=$(BIN)/python bash tests/from_wheel.sh

docs: tools
	@echo "building the documentation, with its notebooks (2 minutes)"
	@$(BIN)/python -m sphinx --fail-on-warning --nitpicky -D nb_execution_mode=force docs build/docs

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
