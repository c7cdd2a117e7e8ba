# Each target makes what it needs on a fresh machine: a virtual environment in .venv, and in it what pyproject.toml
# names. One that is there already is used, and kept. Stamp files keep the next run fast; `make clean` takes all of it away
# that was made here.

PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := $(shell find ltx backends vfs -name "*.py" -o -name "*.[ch]")
EXTENSION := $(wildcard vfs/extension/*.[ch] vfs/extension/build.py)

.PHONY: demo test lint bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.run
	$(BIN)/python docs/guide/demo.py .demo

test: $(VENV)/.test $(VENV)/.servers $(VENV)/.wheel
	$(BIN)/python -m pytest $(PYTEST)

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports

bench: $(VENV)/.test
	$(BIN)/python -m bench $(BENCH)

clean:
	if [ -e $(VENV)/.ours ]; then rm -rf $(VENV); else rm -f $(VENV)/.made $(VENV)/.run $(VENV)/.test $(VENV)/.servers $(VENV)/.wheel; fi
	rm -rf .demo .servers build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find ltx backends vfs tests bench docs -name __pycache__ -type d -prune -exec rm -rf {} +

# pip 25.1 is the first that reads dependency groups.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or name one with make PYTHON=..."; exit 1; }
	@if [ ! -e $(VENV) ]; then $(PYTHON) -m venv $(VENV) && touch $(VENV)/.ours; \
	elif ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "$(VENV) has no Python 3.11 or newer: move it away, or use another folder with make VENV=..."; exit 1; fi
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade >/dev/null
	$(PIP) install --upgrade 'pip>=25.1'
	touch $@

$(VENV)/.run: pyproject.toml $(EXTENSION) $(VENV)/.made
	$(PIP) install --editable .
	touch $@

$(VENV)/.test: pyproject.toml $(EXTENSION) $(VENV)/.made
	$(PIP) install --editable '.[all]' --group test
	touch $@ $(VENV)/.run

$(VENV)/.servers: $(wildcard tests/servers/install.sh) $(VENV)/.made
	if [ -f tests/servers/install.sh ]; then bash tests/servers/install.sh; fi
	touch $@

$(VENV)/.wheel: .ci/wheel pyproject.toml $(SOURCES) $(VENV)/.made
	bash .ci/wheel $(BIN)/python
	touch $@
