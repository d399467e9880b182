# Needs Python >= 3.11 (with venv and pip) and make. Everything is installed into .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt

.PHONY: help demo test check clean

help:
	@echo "make demo    install, then let the bundled model write a story out of noise"
	@echo "make test    install with the test tools, then run the tests"
	@echo "make check   lint, types, and the rule of who may import whom"
	@echo "make clean   remove .venv and the caches"

demo: $(VENV)/.installed
	$(BIN)/sfumato generate "Once upon a time there was a" --max-tokens 96 --seed 1

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -n auto

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python
	$(BIN)/python -m pytest -q tests/test_imports.py

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sfumato needs Python 3.11 or newer, got " + sys.version.split()[0] + "; name another: make PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo "installing into $(VENV), once (about a minute)"
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml constraints.txt
	@echo "installing into $(VENV) with the test tools, once (about a minute)"
	$(INSTALL) -e '.[dev,train,serve]'
	@touch $@ $(VENV)/.installed
