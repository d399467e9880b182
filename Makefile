# Needs Python >= 3.11 (with venv and pip) and make. Everything is installed into .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := -m pip install -q --disable-pip-version-check
INSTALL := $(BIN)/python $(PIP) -c constraints.txt
EVERYTHING := -e '.[dev,train,serve]'

.PHONY: help demo test check docs dist dist-test test-oldest test-newest licences sbom audit clean

help:
	@echo "make demo         install, then let the bundled model write a story out of noise"
	@echo "make test         install with the test tools, then run the tests"
	@echo "make check        lint, types, and the rule of who may import whom"
	@echo "make docs         build the documentation into site/; a broken link fails"
	@echo "make dist         build the source distribution and the wheel into dist/"
	@echo "make dist-test    install that wheel into a clean environment and try it"
	@echo "make test-oldest  run the quick tests with the oldest supported dependencies (constraints-oldest.txt)"
	@echo "make test-newest  run the quick tests with the newest versions that pyproject.toml allows"
	@echo "make licences     write docs/licences.md"
	@echo "make sbom         write dist/sbom.json (CycloneDX) of what constraints.txt pins"
	@echo "make audit        look up known vulnerabilities of what constraints.txt pins"
	@echo "make clean        remove the environments, the caches and what was built"

demo: $(VENV)/.installed
	$(BIN)/sfumato generate "Once upon a time there was a" --max-tokens 96 --seed 1

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -n auto --dist worksteal

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python
	$(BIN)/python -m pytest -q tests/test_imports.py

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "look at it: $(BIN)/python -m http.server -d site"

dist: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m hatchling build

dist-test: dist
	rm -rf $(VENV)-dist
	$(PYTHON) -m venv $(VENV)-dist
	$(VENV)-dist/bin/python $(PIP) -c constraints.txt dist/*.whl
	$(VENV)-dist/bin/python -P tools/smoke.py

test-oldest: $(VENV)-oldest/.created
	$(VENV)-oldest/bin/python $(PIP) -c constraints-oldest.txt $(EVERYTHING)
	$(VENV)-oldest/bin/python -m pytest -q -n auto -m "not slow"

test-newest: $(VENV)-newest/.created
	$(VENV)-newest/bin/python $(PIP) --upgrade --upgrade-strategy eager $(EVERYTHING)
	$(VENV)-newest/bin/python -m pytest -q -n auto -m "not slow"

licences: $(VENV)/.installed-dev
	$(BIN)/python tools/licences.py docs/licences.md

sbom: $(VENV)/.installed-dev $(VENV)-tools/.installed
	mkdir -p dist
	$(VENV)-tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o dist/sbom.json $(BIN)/python

audit: $(VENV)-tools/.installed
	$(VENV)-tools/bin/python tools/audit.py constraints.txt

clean:
	rm -rf $(VENV) $(VENV)-* .pytest_cache .ruff_cache dist site
	find src tests -name __pycache__ -prune -exec rm -rf {} +

%/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sfumato needs Python 3.11 or newer, got " + sys.version.split()[0] + "; name another: make PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $*
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo "installing into $(VENV), once (about a minute)"
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml constraints.txt
	@echo "installing into $(VENV) with the test tools, once (about a minute)"
	$(INSTALL) $(EVERYTHING)
	@touch $@ $(VENV)/.installed

$(VENV)-tools/.installed: $(VENV)-tools/.created tools/requirements.txt
	$(VENV)-tools/bin/python $(PIP) -r tools/requirements.txt
	@touch $@
