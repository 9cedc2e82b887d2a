# Everything that a target needs is made by it, in this directory; `make` alone lists the targets.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test check proof fuzz bench format lock clean node-test

# The tests start hundreds of processes; each would compile all modules anew where this is set.
export PYTHONDONTWRITEBYTECODE =

PIP = -m pip install --quiet --disable-pip-version-check
# What touches no socket, no file and no loop has tests that reach every branch.
PURE = errors clock policy messages frames
COVERED = $(PURE:%=--cov=keepalive.%) --cov-branch --cov-fail-under=100 --cov-report=term-missing:skip-covered
UV = .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
  --no-header --no-emit-index-url --no-emit-find-links pyproject.toml

# What became of each test, for the summary at the end of `make test`.
REPORTS = build/tests
reported = --junitxml=$(REPORTS)/$(1).xml

FUZZ_SECONDS ?= 60

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

run: .venv/run.stamp ## Serve the demo; options in ARGS="--port 8081 …"
	@exec .venv/bin/python run.py $(ARGS)

test: .venv/test.stamp node-test ## Run every test, also on the other Pythons at hand and the oldest releases
	scripts/install-test-tools
	.venv/bin/python -m pytest -n auto $(call reported,pure) $(COVERED) $(PURE:%=tests/test_%.py)
	.venv/bin/python -m pytest -n auto $(call reported,core) -m "not browser and not slow" $(PURE:%=--ignore=tests/test_%.py)
	.venv/bin/python -m pytest -n auto $(call reported,browser) -m "browser and not slow" --dist worksteal tests/browser
	scripts/test-others
	@.venv/bin/python -m tests.browser.rows $(patsubst %,$(REPORTS)/%.xml,node pure core browser)

check: .venv/test.stamp node-test ## Check style and types, and run the tests of the browser modules
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/shellcheck .ci/run scripts/*
	npm --prefix web run --silent check

proof: .venv/test.stamp ## Run the tests that take long: large messages, many pages, long outages
	.venv/bin/python -m pytest -n auto -m slow --ignore=tests/test_isolation.py
	.venv/bin/python -m pytest -m slow tests/test_isolation.py  # alone: it measures

fuzz: .venv/test.stamp .venv/fuzz.stamp ## Fuzz frames and messages for FUZZ_SECONDS=60; what is new joins the corpus
	.venv/bin/python -m tests.fuzz $(FUZZ_SECONDS)

bench: .venv/test.stamp .venv/bench.stamp ## Measure keepalive beside its rivals, for docs/benchmarks.md; QUICK=1 is quick
	.venv/bin/python -m bench

format: .venv/test.stamp ## Format the Python code, and mend what ruff can
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

lock: .venv-lock/bin/uv ## Resolve requirements/*.txt anew
	$(UV) --extra server --extra redis --extra uvloop --extra metrics --output-file requirements/run.txt
	$(UV) --all-extras --group check --group test --output-file requirements/test.txt
	$(UV) --all-extras --group test --resolution lowest-direct --output-file requirements/oldest.txt
	$(UV) --all-extras --group bench --output-file requirements/bench.txt
	$(UV) --all-extras --group fuzz --output-file requirements/fuzz.txt

clean: ## Remove all that was made, but no sessions
	rm -rf .venv .venv-* .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage* build dist
	rm -rf web/node_modules web/types web/LICENSE bench/rivals/node_modules examples/*/node_modules examples/*/page/dist
	find . -name __pycache__ -prune -exec rm -rf {} +

node-test: web/node_modules/.stamp
	@mkdir -p $(REPORTS)
	node --test --test-reporter=dot --test-reporter-destination=stdout \
	  --test-reporter=junit --test-reporter-destination=$(REPORTS)/node.xml tests/web/*.test.js

.venv/%.stamp: requirements/%.txt | .venv
	.venv/bin/python $(PIP) --require-hashes -r $<
	@touch $@

.venv:
	python=$$(scripts/pythons) && set -- $$python && "$$1" -m venv .venv

.venv-lock/bin/uv: | .venv
	.venv/bin/python -m venv .venv-lock
	.venv-lock/bin/python $(PIP) 'uv>=0.9,<1'

web/node_modules/.stamp: web/package-lock.json
	scripts/install-test-tools
	npm --prefix web ci --ignore-scripts --no-audit --no-fund
	@touch $@
