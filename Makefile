# The first two targets are all that a user needs. Each makes .venv (once) and lets nox do the work in it.
PYTHON ?= python3

.PHONY: perf test lint setup clean

perf: setup ## fetch the default model, convert it, measure it, print the table, write the JSON
	@.venv/bin/nox --session perf

test: setup ## run what CI runs
	@.venv/bin/nox --session tests

lint: setup ## check style and types
	@.venv/bin/nox --session lint

setup:
	@command -v $(PYTHON) >/dev/null || { echo "edgellm: no Python: '$(PYTHON)' is not on PATH. Install one: apt-get install python3" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "edgellm: $$($(PYTHON) -V) is too old, 3.11 or newer is needed. Name one: make PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -m scripts.environment

clean: ## remove what was built and installed, keep the models
	rm -rf .venv .nox .tox build dist *.egg-info edgellm/_native*
	find csrc -name "*.o" -delete
