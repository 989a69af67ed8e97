# make quickstart: install, distil the digits teacher into one step, measure and draw both. make test: the test suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEWEST := .venv-newest
# Exact versions that passed the tests together; torch and torchvision are free: docs/versions.md.
PINNED := --constraint constraints.txt

.PHONY: quickstart test test-slow test-newest constraints lint docs bench clean

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet $(PINNED) --editable .
	touch $@

$(VENV)/installed-%: $(VENV)/installed
	$(BIN)/pip install --quiet $(PINNED) --editable '.[$*]'
	touch $@

quickstart: $(VENV)/installed
	$(BIN)/dmd2 demo -o runs/quickstart

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto

test-slow: $(VENV)/installed-dev $(VENV)/installed-docs
	$(BIN)/python -m pytest -m slow

# The newest of everything, in an environment that is made anew each time. What breaks is a line in docs/versions.md.
test-newest:
	rm -rf $(NEWEST)
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/pip install --quiet --upgrade --upgrade-strategy eager --editable '.[dev,docs,wandb]'
	$(NEWEST)/bin/python -m pytest -n auto

# Only what has passed is written down.
constraints: test-newest
	$(NEWEST)/bin/python .ci/constraints.py

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/installed-docs
	$(BIN)/mkdocs build --strict

bench: $(VENV)/installed
	$(BIN)/python benchmarks/step.py --json runs/step.json

clean:
	rm -rf $(VENV) $(NEWEST) site build dist
