# What a fresh checkout needs is installed on the way: into .venv, and from Debian's packages
# where we are root. `make help` lists what there is.

VENV := .venv
BIN := $(VENV)/bin
# What runs it is a part of what tests it, and much quicker to install.
TO_RUN := $(VENV)/.to-run
TO_TEST := $(VENV)/.to-test
# npm's, for the modules that browsers load; inside what `npm ci` begins by removing.
NODE := tests/web/node_modules
TO_CHECK := $(NODE)/.to-check
MODULES := 'service/web/**/*.js' 'tests/web/**/*.js'
comma := ,
SHELL_FILES := .ci/run service/dev/packages.sh
# Every process of the tests would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run demo test lint format screenshots bench bench-quick clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /  \1\t/p' Makefile | expand -t 14

run: $(TO_RUN) ## the whole system on this machine, until Ctrl-C (PORT=3061)
	@service/dev/packages.sh
	@exec $(BIN)/python -m service run

demo: $(TO_RUN) ## the story of the product, step by step
	@service/dev/packages.sh
	@exec $(BIN)/python -m service demo

test: lint ## lint, then every test
	@service/dev/packages.sh test
	@# Twice as many as cores: much of the time is waited for.
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(TO_TEST) $(TO_CHECK) ## formatting, types, layers, SQL, shell, compose
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/squawk sql/migrations/*.sql
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/shellcheck $(SHELL_FILES)
	$(NODE)/.bin/prettier --log-level warn --check $(MODULES)
	$(NODE)/.bin/tsc --project tests/web

format: $(TO_TEST) $(TO_CHECK) ## put the Python and JavaScript files in shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(NODE)/.bin/prettier --log-level warn --write $(MODULES)

screenshots: $(TO_TEST) ## every page in both widths and themes, into build/screenshots
	@service/dev/packages.sh test
	$(BIN)/python -m tests.web.screenshots build/screenshots

bench: $(TO_TEST) ## how fast it is, with floors, into build/bench/report.md (about an hour)
	@service/dev/packages.sh bench
	@exec $(BIN)/python -m tests.bench

bench-quick: $(TO_TEST) ## the same in about a minute
	@service/dev/packages.sh bench
	@exec $(BIN)/python -m tests.bench --quick

clean: ## remove what can be made again; the data in .local stay
	rm -rf $(VENV) $(NODE) .mypy_cache .ruff_cache .import_linter_cache .pytest_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(TO_RUN) $(TO_TEST): pyproject.toml
	@service/dev/packages.sh
	@# With the newest pip it takes half as long, and Python compiles what is used as it is used.
	@test -x $(BIN)/python || PIP_QUIET=2 python3 -m venv --upgrade-deps $(VENV)
	PIP_QUIET=2 $(BIN)/pip install --disable-pip-version-check --no-compile -e '.[$(if $(filter $(TO_TEST),$@),dev$(comma)test$(comma)lint,dev)]'
	@touch $@

$(TO_CHECK): tests/web/package-lock.json
	@service/dev/packages.sh test
	npm --prefix tests/web ci --silent --no-audit --no-fund
	@touch $@
