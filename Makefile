# Needs Python 3.11 or later with pip, and make; everything else goes into .venv, once.
PYTHON ?= python3
SECONDS_TO_TRAIN ?= 60
WORKERS ?= 3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# A file's tests stay with one worker, for they share its fixtures; tests/conftest.py says which come first.
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=25

.DEFAULT_GOAL := help
.PHONY: help train compiled test integration lint site bench format protos locks sbom audit release init up down logs

help: ## Show this list
	@awk -F ':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } /^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

train: .venv/.users ## Train a snake for a minute, then draw its learning curve and a replay
	$(BIN)/rattle train shared/experiments/snake.yaml --seconds $(SECONDS_TO_TRAIN)
	@$(BIN)/rattle plot latest
	@$(BIN)/rattle replay latest --episode best --gif
	@echo
	@echo "Try next:"
	@echo "  $(BIN)/rattle replay latest --episode best     watch it here, in the terminal"
	@echo "  $(BIN)/rattle eval latest                      200 fresh games"
	@echo "  $(BIN)/rattle query \"SELECT intDiv(env_steps, 4000000) * 4 AS million_steps, avg(food) FROM episodes GROUP BY 1 ORDER BY 1\""
	@echo "  $(BIN)/rattle train --set env.vision_radius=3  the same with less sight; then: rattle plot RUN RUN"

# Every process would compile all that it imports, for seconds, where Python is told to keep nothing.
unexport PYTHONDONTWRITEBYTECODE

# All workers of the tests at once would compile the kernels and what they import.
compiled: .venv/.developers
	@{ $(BIN)/python -m rattle.services.utils.compile_kernels; \
	$(BIN)/python -c "from tests import template; template.warm_up(template.IMPORTS)"; } & others=$$!; \
	$(BIN)/python -m pytest --collect-only -q >/dev/null; wait $$others

test: compiled ## Run the quick tests, which need Python only
	$(PYTEST) -m "not integration"

integration: .venv/.developers ## Run the tests that take long or need other programs
	$(PYTEST) -m integration

lint: site ## Check style, format, types, layers, generated code, and the site's links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m rattle.services.utils.generate_protos --check

site: .venv/.developers ## Make the site of all pages in dist/site, to be read without a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: .venv/.developers ## Mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: .venv/.developers ## Generate the code of the gRPC messages anew
	$(BIN)/python -m rattle.services.utils.generate_protos

locks: .venv/.developers ## Pin the packages that pyproject.toml names anew, with hashes
	$(BIN)/python requirements/make_locks.py

sbom: .venv/.developers ## List what users get as CycloneDX in dist/, and check its licences
	$(BIN)/python requirements/make_sbom.py

audit: .venv/.developers ## Ask whether advisories against the pinned packages are known
	$(BIN)/python requirements/audit.py

release: .venv/.developers ## Check that all files say VERSION, and build wheel, charts, images and site in dist/VERSION
	@scripts/release.sh $(VERSION)

bench: .venv/.developers ## Measure speed and learning, and write the tables in benchmarks/
	$(BIN)/python benchmarks/run.py

##@ From images: on this machine (compose.yaml), or with TARGET=k8s on a cluster
# The scripts have defaults for all variables, and make hands them those of its command line; docs/deployment.md has more.
place = $(if $(filter k8s,$(TARGET)),cluster,compose)

init: ## Write .env and .secrets/ for compose (PROFILES=core,telemetry); TARGET=k8s: check cluster and namespace
	@scripts/$(place).sh init

logs: ## Show what services say; TARGET=k8s SERVICE=training: those of a cluster
	@scripts/$(place).sh logs

up: ## Start what .env says from images, with Docker
	@scripts/compose.sh up

down: ## Stop it; runs and stores stay
	@scripts/compose.sh down

##@ On a Kubernetes cluster: NAMESPACE, KUBE_CONTEXT, RELEASE, DATA_RELEASE, REGISTRY, TAG, VALUES, DATA_VALUES, TIMEOUT
CLUSTER := quick-deploy secrets deploy health create-tables how-to-connect status passwords port-forward upgrade backup \
	restore destroy
.PHONY: $(CLUSTER)
quick-deploy: ## All of: init TARGET=k8s, secrets, deploy, health, create-tables
secrets: ## Make token and passwords, once
deploy: ## Install both charts, or bring them to these values alone
health: ## Wait until every pod is ready, and say which is not
create-tables: ## Make the tables in ClickHouse, or bring them up to date
how-to-connect: ## Show addresses, port-forward commands and the token
status: ## Show releases, pods and volumes
passwords: ## Show the generated passwords
port-forward: ## Make the services reachable on this machine, until Ctrl-C
upgrade: ## Bring what is installed to new images or more values, and wait
backup: ## Copy the runs and the store into backups/, or TO=FOLDER
restore: ## Replace runs and store by FROM=FOLDER
destroy: ## Remove everything, volumes included, after you have typed DELETE
$(CLUSTER):
	@scripts/cluster.sh $@

.venv/bin/python:
	$(PYTHON) -m venv .venv

# Only the files whose hashes are listed, and none that runs code to be installed. PyPI has no CPU build of PyTorch.
install = $(PIP) --no-deps --require-hashes --only-binary :all: $(2) -r requirements
define install-list
	@$(install)/pytorch.txt 2>/dev/null || $(install)/pytorch.txt --index-url https://download.pytorch.org/whl/cpu
	$(install)/$(1).txt
	$(PIP) --no-deps --no-build-isolation -e .
endef

.venv/.users: .venv/bin/python pyproject.toml requirements/pytorch.txt requirements/users.txt
	$(call install-list,users)
	@touch $@

.venv/.developers: .venv/bin/python pyproject.toml requirements/pytorch.txt requirements/developers.txt
	$(call install-list,developers,--no-compile)
	@touch $@ .venv/.users
