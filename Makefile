# Everything runs in .venv, which is made from constraints.txt when it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
TEN := ase:g2/CH3CONH2,CH3CH2OH,CH3CN,CH3COF,CH3CH2Cl,CH3NO2,CH3SH,HCOOCH3,C4H4NH,C4H4S
# One BLAS/OpenMP thread per test process: the molecules are small, and threads only fight over cores.
SINGLE := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: help install demo table test test-all fuzz faults versions check format docs clean

help:  ## print this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile

install: $(STAMP)  ## make .venv from the pinned versions

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)  ## ethanol and a drug-sized molecule, minao and ml side by side
	$(BIN)/python examples/demo.py

table: $(STAMP)  ## measure the README's table anew: ten molecules, five to ten minutes of one core
	rm -rf out/table
	$(SINGLE) $(BIN)/mlham bench $(TEN) --guess minao,atom,coarse,ml --report out/table --insert README.md
	mkdir -p examples/table
	cp out/table/results.json examples/table/results.json

test: $(STAMP)  ## the default tests (minutes), and the slowest of them
	$(SINGLE) $(BIN)/python -m pytest -q -n auto -m "not slow" --durations 20 --durations-min 3

test-all: $(STAMP)  ## every test, the slow ones too
	$(SINGLE) $(BIN)/python -m pytest -q -n auto --durations 20

fuzz: $(STAMP)  ## 1000 random inputs (an hour); the same command continues
	mkdir -p out
	$(SINGLE) $(BIN)/python tests/support/fuzz.py --count 1000 --report out/fuzz.jsonl

faults: $(STAMP)  ## long commands under kills, a full disk, little memory and missing folders (half an hour)
	$(SINGLE) $(BIN)/python tests/support/faults.py --folder out/faults

versions: $(STAMP)  ## fast tests with several versions of Python, PySCF, numpy and torch
	$(BIN)/python examples/versions.py --folder out/versions

check: $(STAMP)  ## ruff, mypy and the order of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## build the site in out/site; a warning is an error
	$(BIN)/python -c "import mkdocs, mkdocstrings" 2>/dev/null || $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:  ## remove .venv and caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
