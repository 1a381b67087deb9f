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

.PHONY: help setup verify check browser test docs clean

help:
	@echo "make verify   prove the optima on the sample and measure the quick rules (about a minute)"
	@echo "make test     lint, types, architecture, tests (some minutes)"
	@echo "make check    lint and types alone"
	@echo "make docs     the documentation as HTML, warnings as errors (build/docs/index.html)"
	@echo "make setup    the virtual environment in .venv, done by the others when needed"
	@echo "make clean    remove .venv and caches"

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "lp_routing needs Python 3.11 or newer; say which: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "[1/3] creating the virtual environment .venv"
	@$(PYTHON) -m venv .venv
	@echo "[2/3] installing torch for the CPU, solvers and test tools into .venv (about 2 GB; minutes)"
	@$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[test,bench,docs,notebooks]'
	@$(BIN)/python -c 'import lp_routing, highspy, cvxpy, ortools, pylmcf, ot, matplotlib, pytest'
	@echo "[3/3] compiling the kernels of MinCostFlow, once (a minute)"
	@$(BIN)/python -c "$$COMPILE"
	@touch .venv/ready

verify: setup
	@$(BIN)/lp-routing verify

check: setup
	@echo "== ruff: lint and format"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== mypy: types"
	@$(BIN)/mypy

browser: setup
	@sh tests/install_chromium.sh

test: check browser
	@echo "== pytest: tests and architecture, a process a core"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --cov=lp_routing --cov-report=term:skip-covered

docs: setup
	@$(BIN)/python -m sphinx --fail-on-warning --nitpicky -D nb_execution_mode=force docs build/docs

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
