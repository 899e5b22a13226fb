# The commands of this project; `make` alone lists them. Each installs what it lacks.

.DEFAULT_GOAL := help
.PHONY: help demo test test-step test-rest test-unit check lint types vsix release bench fuzz stack stack-down clean setup setup-unit

SHELL := bash
PYTHON := .venv/bin/python
# Programs below tests/ find each other by these folders; pytest and mypy have them in pyproject.
PROGRAM := PYTHONPATH=tests:packaging $(PYTHON)
export PYTHONDONTWRITEBYTECODE := 1

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

demo: setup ## build, push and sign an image by the packaged task, and let Docker and notary judge
	@$(PROGRAM) tests/task/demo.py

test: setup ## all tests, on real peers, in two halves side by side
	@$(MAKE) --no-print-directory --jobs=2 test-step test-rest

# Both halves write whole lines, each with its name, and fail if pytest does.
test-step: # the packaged step; needs `setup`
	@set -o pipefail; $(PYTHON) -m pytest tests/task 2>&1 | sed -u 's/^/step | /'

test-rest: # all other tests; needs `setup`
	@set -o pipefail; $(PYTHON) -m pytest tests/peers tests/unit 2>&1 | sed -u 's/^/rest | /'

test-unit: setup-unit ## the tests that need no peers, no network and no root
	$(PYTHON) -m pytest tests/unit

check: lint types test vsix ## what CI runs: format, lint, layers, types, all tests, the package

lint: setup ## format, lint and the direction of imports
	$(PYTHON) -m ruff format --check . && $(PYTHON) -m ruff check . && $(PYTHON) -m pytest -q tests/unit/test_layers.py

types: setup ## mypy, strict
	$(PYTHON) -m mypy pyworker tests packaging

vsix: setup ## the extension, dist/signimage-<version>.vsix
	$(PYTHON) packaging/build_vsix.py

release: setup ## everything that is published, tested as built: dist/, with its SHA256SUMS
	$(PYTHON) packaging/release.py

bench: setup ## the side-by-side benchmark; writes build/bench.json
	$(PROGRAM) -m bench.bench

fuzz: .cache/fuzz/ready ## fuzz every parser for SECONDS (3600), one at a time; Linux, Python 3.11 to 3.13
	PYTHONPATH=tests:pyworker .cache/fuzz/bin/python -m bench.fuzz --seconds $(or $(SECONDS),3600)

# Its own environment: other Pythons cannot install the fuzzer, and no test needs it.
.cache/fuzz/ready: requirements/fuzz.txt | setup-unit
	.venv/bin/python -m venv .cache/fuzz
	.cache/fuzz/bin/python -m pip install -qq --disable-pip-version-check --require-hashes --requirement $<
	touch $@

stack: setup ## start the peers, leave them running, print the environment to use them
	@$(PROGRAM) -m peers.stack up .stack

stack-down: setup-unit ## stop the peers that `make stack` started
	@$(PROGRAM) -m peers.stack down .stack

clean: stack-down ## remove what was built; installed programs and downloads stay
	rm -rf build dist .stack .mypy_cache .ruff_cache .pytest_cache .hypothesis

setup:
	@packaging/setup.sh all

setup-unit:
	@packaging/setup.sh unit
