# Everything a developer does here. `make` alone lists it; CONTRIBUTING.md says more.
#
# Works with GNU make 3.81 and newer, as root or not, and without Node except for `make lint`.

SHELL := /bin/bash
.DEFAULT_GOAL := help
# Nothing here gains from parallel targets, and mixed output is hard to read.
.NOTPARALLEL:
.DELETE_ON_ERROR:

VENV_PYTHON := .venv/bin/python
# pip without its advice; npm without its progress, reports and install scripts.
PIP := $(VENV_PYTHON) -m pip --quiet --disable-pip-version-check --no-input
NPM_CI := npm ci --ignore-scripts --no-progress --no-audit --no-fund --loglevel=error
BUF := .tools/node_modules/.bin/buf

# pip, npm and buf keep caches in HOME, and some of them fail without one: lend them a folder.
ifneq ($(shell test -n "$$HOME" -a -w "$$HOME" && echo writable),writable)
export HOME := $(CURDIR)/.tools/home
$(shell mkdir -p "$(HOME)")
endif

# Which Python makes the environment: `make PYTHON=/path/to/python3.13 …`, or else the first on PATH
# that is new enough. A candidate is started, since a pyenv shim may stand for nothing.
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)
endif

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- Environments -------------------------------------------------------------------------------

# Made once; installed again only when what to install has changed. Debian splits venv off Python;
# virtualenv does without it, in a folder of its own when the system has none.
.venv/.installed: pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ] || \
	    ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  echo "AgentChat needs Python 3.11 or newer; found: $$("$(or $(PYTHON),python3)" --version 2>/dev/null || echo none)." >&2; \
	  echo "Install one, or name it: make PYTHON=/path/to/python3.12 …" >&2; exit 1; fi
	@$(VENV_PYTHON) -c 'import pip' 2>/dev/null || { \
	  echo "Making .venv with $$("$(PYTHON)" --version)"; \
	  "$(PYTHON)" -m venv --clear .venv >/dev/null 2>&1 \
	  || "$(PYTHON)" -m virtualenv --quiet --clear .venv 2>/dev/null \
	  || { "$(PYTHON)" -m pip --quiet --disable-pip-version-check install --upgrade \
	      --root-user-action=ignore --target .tools/virtualenv virtualenv \
	    && PYTHONPATH=.tools/virtualenv "$(PYTHON)" -m virtualenv --quiet --clear .venv; } \
	  || { echo "Cannot make .venv: install Python's venv module (Debian: python3-venv)." >&2; exit 1; }; }
	@echo "Installing what pyproject.toml asks for into .venv"
	@$(PIP) install --constraint constraints.txt --editable '.[server,dev]'
	@touch $@

# buf checks the contract. Copied, so that node_modules stays out of the repository's root.
.tools/.installed: package.json package-lock.json .npmrc
	@command -v npm >/dev/null || { \
	  echo "This needs npm (Node 18 or newer): it runs buf, which checks proto/." >&2; exit 1; }
	@mkdir -p .tools && cp package.json package-lock.json .npmrc .tools/
	@echo "Installing buf into .tools"
	@cd .tools && $(NPM_CI) >/dev/null
	@touch $@

.PHONY: venv
venv: .venv/.installed ## Make .venv, or bring it up to date
	@:

# --- Running ------------------------------------------------------------------------------------

.PHONY: up demo bench
up: .venv/.installed ## Run a board here: server and embedded Postgres (ARGS="--help")
	@.venv/bin/agentchat up $(ARGS)

demo: .venv/.installed ## Watch two agents hand each other work (ARGS=…)
	@$(VENV_PYTHON) scripts/demo.py $(ARGS)

bench: .venv/.installed ## Measure start-up against Postgres itself (ARGS=…)
	@$(VENV_PYTHON) bench/run.py $(ARGS)

# --- Tests --------------------------------------------------------------------------------------

.PHONY: test test-slow
test: .venv/.installed ## Run the tests, save the slow ones (ARGS="tests/unit -k cursor")
	@$(VENV_PYTHON) -m pytest -m 'not slow' $(ARGS)

# pytest exits with 5 when it finds no test, which is no failure while nothing is slow.
test-slow: .venv/.installed ## Run the slow tests: crashes, fuzzing, other Postgres
	@$(VENV_PYTHON) -m pytest -m slow $(ARGS) || [ $$? -eq 5 ]

# --- Checks -------------------------------------------------------------------------------------

# .pre-commit-config.yaml runs the same targets, one by one.
.PHONY: lint lint-style lint-types lint-imports lint-gen lint-proto
lint: lint-style lint-types lint-imports lint-gen lint-proto ## Run every check (needs npm)

lint-style: .venv/.installed
	@.venv/bin/ruff check --quiet
	@.venv/bin/ruff format --check --quiet || { echo "Run 'make format'." >&2; exit 1; }

lint-types: .venv/.installed
	@.venv/bin/mypy

lint-imports: .venv/.installed
	@.venv/bin/lint-imports --no-logo

lint-gen: .venv/.installed
	@$(VENV_PYTHON) scripts/gen_protos.py --check
	@$(VENV_PYTHON) scripts/gen_sync.py --check

# The contract may grow but not break what main's last commit promised, when there is one. That
# commit is read with today's settings, so that settings can move.
lint-proto: .tools/.installed
	@$(BUF) lint
	@$(BUF) format --diff --exit-code || { echo "Run 'make format'." >&2; exit 1; }
	@if git cat-file -e main:proto 2>/dev/null; then \
	  $(BUF) breaking --against-config buf.yaml \
	    --against "$$(git rev-parse --git-common-dir)#format=git,branch=main"; \
	else echo "buf breaking: skipped, main has no commit with a contract to compare with"; fi

.PHONY: format gen clean
format: .venv/.installed .tools/.installed ## Format Python and proto files, fix what ruff can
	@.venv/bin/ruff check --fix-only --quiet
	@.venv/bin/ruff format --quiet
	@$(BUF) format --write

gen: .venv/.installed ## Generate gen/ from proto/, and the blocking SDK from the asyncio one
	@$(VENV_PYTHON) scripts/gen_protos.py
	@$(VENV_PYTHON) scripts/gen_sync.py

clean: ## Remove environments, caches and builds; never a board's data
	@rm -rf .venv .tools build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis \
	  .import_linter_cache .coverage
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
