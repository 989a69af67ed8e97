# make quickstart: install, distil the digits teacher into one step, measure and draw both. make test: the test suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-slow lint docs bench clean

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/installed-%: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[$*]'
	touch $@

quickstart: $(VENV)/installed
	$(BIN)/dmd2 demo -o runs/quickstart

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto

test-slow: $(VENV)/installed-dev $(VENV)/installed-docs
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/installed-docs
	$(BIN)/mkdocs build --strict

bench: $(VENV)/installed
	$(BIN)/python benchmarks/step.py --json runs/step.json

clean:
	rm -rf $(VENV) site build dist
