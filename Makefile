# Needs a POSIX shell and Python ≥ 3.11 with venv. Kafka also needs a JDK ≥ 17 and Maven.

.DEFAULT_GOAL := help
.PHONY: help install lint check test test-matrix demo soak compose-test bench wheel sbom lock clean broker-tools

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Python 3.11 first: the package with a Redis server exists only for this version.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# The pytest workers share one stack of servers, and an idle worker takes tests from another. More than six
# workers would wait for the disk.
SIDE_BY_SIDE := -n auto --maxprocesses 6 --dist worksteal

# The tests of `make test`.
IN_TEST := not soak and not compose and not matrix

PIN := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
TEMPLATE := sluice/project/template

SEED ?= random
MINUTES ?= 10

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-13s %s\n", $$1, $$2}'

install: $(STAMP) ## make .venv with the locked dependencies and the command sluice

# The environment contains a link to the package only. A path file or an editable install would put the whole
# clone on the path.
$(STAMP): requirements.lock
	@test -n "$(PYTHON)" || { echo "Sluice needs Python 3.11 or later: install it, or name it with make PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments: install its venv module (Debian: apt install python3-venv)" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing the locked dependencies into $(VENV), which takes one or two minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@ln -sfn "$(CURDIR)/sluice" "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/sluice"
	@printf '#!%s\nfrom sluice.cli.main import app\n\napp()\n' "$(CURDIR)/$(BIN)/python" > $(BIN)/sluice
	@chmod +x $(BIN)/sluice
	@touch $@

# Java and Maven are not needed if the environment has the address of a Kafka.
broker-tools:
	@test -n "$$SLUICE_KAFKA_BOOTSTRAP_SERVERS" || { command -v java >/dev/null && command -v mvn >/dev/null; } || { \
		echo "Kafka needs a JDK ≥ 17 and Maven: install them (Debian: apt install default-jdk-headless maven), or run the services with docker-compose.yml and set SLUICE_DATABASE_URL, SLUICE_REDIS_URL and the variables SLUICE_KAFKA_… of docs/installing.md" >&2; exit 1; }

lint: install ## check format, lint, types and imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint ## lint, then run the unit tests; about a minute
	$(BIN)/python -m pytest -q tests/unit $(SIDE_BY_SIDE)

# Without a JDK or Maven, tests that need Kafka are skipped, and pytest reports the reason.
test: install ## run all tests except those of the next three targets; starts and stops real servers
	$(BIN)/python -m pytest -q -m "$(IN_TEST)" $(SIDE_BY_SIDE)

test-matrix: install ## run the tests of every combination of clients and servers, and the longer tests
	$(BIN)/python -m pytest -q -m matrix $(SIDE_BY_SIDE) tests/db tests/system
	$(BIN)/python -m pytest -q -m "$(IN_TEST)" --least-rights $(SIDE_BY_SIDE) tests/system
	SLUICE_SCHEMA=other_name $(BIN)/python -m pytest -q -m "$(IN_TEST)" $(SIDE_BY_SIDE) tests/db

soak: install broker-tools ## inject random faults, then check the data: SEED=… MINUTES=…
	SOAK_SEED=$(SEED) SOAK_MINUTES=$(MINUTES) $(BIN)/python -m pytest -q -s -m soak

compose-test: install ## test docker-compose.yml in a container engine; IMAGES=local builds the images that it would pull
	$(if $(filter local,$(IMAGES)),$(BIN)/python -m tests.compose.local_images)
	$(BIN)/python -m pytest -q -s -m compose tests/compose

demo: install broker-tools ## run scenarios with faults on real servers; FAST=1: four of them; SECURE=1: with logins; JSON=1: prints JSON
	$(BIN)/python -m tests.demo $(if $(FAST),--fast) $(if $(SECURE),--secure) $(if $(JSON),--json)

bench: install broker-tools ## measure throughput and latency, compared with baselines; FAST=1 runs a short version
	$(BIN)/python -u -m bench $(if $(FAST),--fast)

wheel: install ## build wheel and source distribution into dist/
	rm -rf build *.egg-info
	$(BIN)/python -m build --no-isolation --outdir dist
	rm -rf build *.egg-info

SBOM ?= dist/sbom.json

sbom: install ## write the packages of the image as CycloneDX into dist/sbom.json
	@mkdir -p $(dir $(SBOM))
	$(BIN)/cyclonedx-py requirements requirements-image.lock --pyproject pyproject.toml --output-reproducible -o $(SBOM)

lock: ## pin all dependencies again, with hashes (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv: pip install uv" >&2; exit 1; }
	$(PIN) pyproject.toml --all-extras -o requirements.lock
	@# urllib3 is for the effects of the example, which the image contains.
	echo urllib3 | $(PIN) pyproject.toml --extra flower - -c requirements.lock --no-annotate -o requirements-image.lock
	grep -v sluice-kafka $(TEMPLATE)/requirements.in.tmpl | $(PIN) pyproject.toml --extra flower --extra stack - \
		-c requirements.lock --no-annotate -o $(TEMPLATE)/requirements.lock

clean: ## stop the local servers, and delete their data, .venv and the caches
	@if test -x $(BIN)/python; then $(BIN)/python -m sluice.cli.stack down --wipe; fi
	rm -rf $(VENV) .sluice build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
