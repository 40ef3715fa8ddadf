# Two commands matter: `make demo` and `make test`. Each sets up what it needs and is quick the second time.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
MARKS  ?= not slow

.PHONY: help setup opengl demo test test-slow check bench comparison figures clean

help:
	@echo "make demo     watch the bundled policies solve LIBERO tasks; tables and HTML report at the end"
	@echo "make test     lint, types and the default tests (under 8 minutes on 2 cores)"
	@echo "make check    lint and types only"
	@echo "make bench    latency of every stage on this machine"
	@echo "make comparison  every preset on both suites: README's tables from nothing (hours; resumes)"
	@echo "make figures  the figures of README and docs, from the committed result files"

setup: opengl $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "heisd needs Python 3.11: install python3.11 and python3.11-venv, or say make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[libero,dev]'
	@touch $(STAMP)

opengl:
	@sh scripts/opengl.sh

demo: setup
	$(BIN)/heisd demo --out runs/demo

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup check
	$(BIN)/pytest -m "$(MARKS)"

test-slow: setup
	$(BIN)/pytest -m slow

bench: setup
	$(BIN)/heisd bench

comparison: setup
	sh scripts/comparison.sh

figures: setup
	$(BIN)/python benchmarks/figures.py

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
