# Everything runs from .venv, which `make setup` makes; no environment has to be activated.
.DEFAULT_GOAL := help
.PHONY: help setup demo test fast-test lint benchmark clean

BIN := .venv/bin
STAMP := .venv/.is-set-up
NEEDS_PROCESSES := ray or vllm or processes or slow or gpu

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install everything into .venv: minutes the first time, then nothing to do.
	@:

$(STAMP): pyproject.toml .ci/setup
	@.ci/setup
	@touch $@

demo: setup ## Teach a small model the English of the King James Bible: about ten minutes on two cores.
	@$(BIN)/python -m deploy.examples.king_james.prepare
	@$(BIN)/irlign train deploy/examples/king_james/job.yaml --run-dir runs/king-james

test: lint ## Check everything: style, imports, types, then the fast and the slow tests.
	$(BIN)/python -m pytest -n auto -m "not ($(NEEDS_PROCESSES))"
	$(BIN)/python -m pytest -m "$(NEEDS_PROCESSES)"

fast-test: setup ## Run the tests that need no Ray, no engine and no processes.
	$(BIN)/python -m pytest -n auto -m "not ($(NEEDS_PROCESSES))"

lint: setup ## Check style, imports and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy alignment actors cluster

benchmark: setup ## Measure speed and memory: minutes, on an otherwise idle machine.
	@$(BIN)/python -m tests.benchmarks

clean: ## Remove .venv and what the tools left; runs/ and the demo's data stay.
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find alignment actors cluster tests deploy -name __pycache__ -prune -exec rm -rf {} +
