# Every target prepares what it needs; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help run test check fix bench peers soak dashboards pins environment

PYTHON := .venv/bin/python
unexport PYTHONHOME PYTHONPATH
# Most tests wait for processes and disks; each worker may run an Elasticsearch of its own, so there are not many.
IN_PARALLEL := -n logical --maxprocesses 4 --dist worksteal

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

run: environment ## start the demo: collector, store, query API and dashboard, with example traffic
	@exec .venv/bin/klyra-audit demo

test: environment ## run every test but the soak tests; ARGS="-k pattern" narrows it
	@$(PYTHON) -m pytest -m "not soak" $(IN_PARALLEL) $(ARGS)

check: environment ## style, types and the built packages
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@$(PYTHON) tools/check_package.py

fix: environment ## apply what the style check can mend by itself
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

bench: environment ## measure; prints one table
	@PYTHONPATH=tests $(PYTHON) -m bench.run $(ARGS)

peers: ## fetch the pinned programs of others that some tests run against
	@tools/peers.sh

soak: environment ## run the long tests
	@$(PYTHON) -m pytest -m soak $(ARGS)

dashboards: environment ## make what Kibana imports again from dashboards/kibana/sources
	@PYTHONPATH=tools $(PYTHON) -m kibana

pins: environment ## write constraints.txt again from what .venv has installed
	@$(PYTHON) tools/pins.py --write

environment: ## make .venv, or bring it up to date
	@tools/environment.sh
