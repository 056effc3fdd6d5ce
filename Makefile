# Every target explains itself: `make help`.
.DEFAULT_GOAL := help
# Without compiled modules every process compiles the libraries anew: seconds each time.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help setup demo demo-stop test test-images lint lint-workflows secrets audit scan-infra format callers lock schema benchmark speed clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

demo: setup ## Carry a model from data to an answering service, on this machine, with no cloud account
	@.venv/bin/trilho demo

demo-stop: setup ## Stop the service and the embedded AWS that the demo left running
	@.venv/bin/trilho demo --stop

test: setup ## Run all tests
	@.venv/bin/pytest -n auto --dist loadfile tests

test-images: setup ## Build and test both images, with docker or podman; takes minutes
	@TRILHO_TEST_LARGER=1 .venv/bin/pytest tests/container

lint: setup ## Check style, types, the house's contracts and generated files
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/mypy --strict scripts/*.py .github/actions/setup/*.py
	@.venv/bin/lint-imports

lint-workflows: setup ## Check workflows, actions and shell scripts without running them (npm fetches GitHub's parser)
	@scripts/lint-workflows

secrets: setup ## Find secrets in the files of the repository
	@scripts/scan-secrets

audit: setup ## Find known vulnerabilities in the locks (asks PyPI's advisory service)
	@.venv/bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes \
		$(foreach lock,$(wildcard requirements*.txt),--requirement $(lock))

scan-infra: setup ## Scan the templates in infra/ for what a security reviewer would ask
	@scripts/scan-infra

format: setup ## Format the code
	@.venv/bin/ruff check --fix-only --quiet .
	@.venv/bin/ruff format .

speed: setup ## Has the service become slower? By ratios, in a minute
	@.venv/bin/python -m benchmarks.serving.regression

benchmark: setup ## Measure every performance claim beside its peer and write benchmarks/RESULTS.md
	@.venv/bin/python -m benchmarks

setup: .venv/ready ## Make the environment in .venv/

.venv/ready: requirements-dev.txt requirements-uv.txt pyproject.toml scripts/setup
	@scripts/setup

schema: setup ## Write docs/pipeline.md and docs/pipeline.schema.json from the configuration types
	@.venv/bin/python -m trilho.config.reference

# ci and release are Trilho's own, model-* are what is called
callers: ## Copy the workflows that `trilho init` writes for other repositories
	@cp $(addprefix .github/workflows/,$(filter-out ci.yml release.yml model-%,$(notdir $(wildcard .github/workflows/*.yml)))) src/trilho/init/workflows/

lock: ## Resolve the hashed locks anew from pyproject.toml
	@scripts/lock

clean: ## Remove the environment and caches (not .trilho/, which may hold your registry)
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
