# One command for each chore. Everything runs in the virtual environment $(VENV), which the first
# target that needs it makes; nothing outside this folder is touched.
#   PYTHON=/path/to/python3.12   the interpreter to make it with (default: the first that fits)
#   VENV=.venv-3.12              another environment
#   JOBS=1                       tests at a time (default: 3)
#   ARGS="..."                   further arguments for demo, test, docs, bench-engine, constraints

VENV ?= .venv
# Tests wait for most of their time: three at a time keep two cores busy.
JOBS ?= 3
export PYTHON
# Modules found through these would shadow those that are installed.
unexport PYTHONPATH PYTHONHOME

BIN = "$(VENV)/bin"
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all screenshot lint format docs bench-engine bench-memory bench-queue bench-repeats bench-latency bench-scale bench-gateway bench-backlog constraints chaos failover soak ci clean

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1 /p' Makefile | \
		while read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

setup:  ## Make .venv ready, or leave it alone when it is (the other targets do this themselves)
	@sh tools/bootstrap.sh "$(VENV)"

demo: setup  ## Watch speech become text through the whole pipeline
	@$(BIN)/sensestream demo $(ARGS)

test: setup  ## Run the tests, on a real Redis of their own
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not long" $(ARGS)

test-all: setup  ## Run the long ones as well: failover, hostile input, crashes by the dozen
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

screenshot: setup  ## Take the README's picture of the gateway's page, in a Chromium
	@$(BIN)/python tools/try_page.py --screenshot

lint: setup  ## Check style, format, types, and which way imports run
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup  ## Fix style and format where that can be done by machine
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs:  ## Build the documentation as a site in dist/site; ARGS=serve shows it while you write
	@sh tools/bootstrap.sh "$(VENV)-docs" docs
	@NO_MKDOCS_2_WARNING=1 "$(VENV)-docs/bin/mkdocs" $(or $(ARGS),build)

bench-engine: setup  ## Measure the engine beside funasr-onnx and sherpa-onnx on this processor
	@$(BIN)/python benchmarks/engine.py $(ARGS)

bench-queue: setup  ## Measure hits through the streams beside a bare loop and other queues
	@$(BIN)/python benchmarks/queueing.py $(ARGS)

bench-repeats: setup  ## Measure whole services as cache hits grow, beside a cache before a model
	@$(BIN)/python benchmarks/repeats.py $(ARGS)

bench-latency: setup  ## Measure one request on an idle pipeline, hit and miss
	@$(BIN)/python benchmarks/latency.py $(ARGS)

bench-scale: setup  ## Measure what a request costs as backlog, cache, workers and requests grow
	@$(BIN)/python benchmarks/scaling.py $(ARGS)

bench-gateway: setup  ## Measure what the gateway adds to a hit
	@$(BIN)/python benchmarks/gateway.py $(ARGS)

bench-memory: setup  ## Measure the memory of long recordings and of ready workers
	@$(BIN)/python benchmarks/memory.py $(ARGS)

constraints: setup  ## Pin every version anew in constraints.txt (the newest with ARGS=--upgrade)
	@$(BIN)/python tools/constraints.py $(ARGS)

chaos: setup  ## Kill, freeze, cut and fill at random, and count what is lost or doubled
	@$(BIN)/python -m chaos.run $(ARGS)

bench-backlog: setup  ## Measure one worker before a thousand entries, and before a million
	@$(BIN)/python -m chaos.backlog $(ARGS)

soak: setup  ## Load it steadily for an hour, and see whether anything grows or stays behind
	@$(BIN)/python -m chaos.soak $(ARGS)

failover: setup  ## Kill a replicated Redis under load, and count what the failover took back
	@$(BIN)/python -m chaos.failover $(ARGS)

ci:  ## Everything that must hold before a change lands
	@bash .ci/run

clean:  ## Remove .venv and every cache
	@for venv in "$(VENV)" "$(VENV)-docs"; do \
		if [ -f "$$venv/pyvenv.cfg" ]; then rm -rf "$$venv"; fi; done
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
