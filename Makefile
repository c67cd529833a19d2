# Everything happens in .venv inside the checkout; only Python (3.11 or newer) and make are assumed.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 2
SEED := $(or $(SEED),$(shell date +%s))

help:
	@echo "make demo     install, measure the embedded pair of models, draw the figure (under 2 minutes once installed)"
	@echo "make test     install the test tools and run the tests"
	@echo "make torture  50 killed workers, 30 000 damaged files, 10 000 draws, every known bug; statistics at a fresh seed"
	@echo "make oldest   read the bad files with the oldest readers that pyproject.toml allows"
	@echo "make lint     style and types"
	@echo "make wheel    build the wheel, look into it, install it beside the libraries and try it there"
	@echo "make bench    cost of every quantity next to its floor and to what one would write instead; DEVICE=cuda: of a card"
	@echo "make docs     the documentation as a site/ that can be read and searched offline"
	@echo "make figures  redraw figures/ from the embedded models"

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/tested: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,lint]"
# azula's metadata ask for torchvision, which its one network that is read does not need
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps azula
	touch $@

demo: .venv/installed
	$(BIN)/lipdiag demo --out demo

test: .venv/tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m card

torture: .venv/tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 --dist worksteal --durations=0
	LIPDIAG_SEED=$(SEED) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m statistical -n 2 --dist worksteal

OLDEST := safetensors==0.5.0 zarr==3.1.0 numcodecs==0.14.0 crc32c
oldest: .venv/tested
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv/oldest $(OLDEST)
	FOLDER=$$(mktemp -d) && PYTHONPATH=.venv/oldest:. OMP_NUM_THREADS=1 $(BIN)/python -m tests.safety.corpus $$FOLDER \
		> $$FOLDER/found.jsonl || { grep '"fine": false' $$FOLDER/found.jsonl; exit 1; }

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/documented: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

docs: .venv/documented
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs . site

wheel: .venv/tested
	FOLDER=$$(mktemp -d) && $(BIN)/python -m tests.distribution $$FOLDER && mkdir -p dist && cp $$FOLDER/*.whl $$FOLDER/*.gz dist

bench: .venv/installed
	$(BIN)/python -m benchmarks $(if $(DEVICE),--device $(DEVICE))

figures: .venv/installed
	$(BIN)/python figures/make.py

clean:
	rm -rf .venv demo site docs/api

.PHONY: help demo test torture oldest lint docs wheel bench figures clean
.DEFAULT_GOAL := help
