# Every target sets itself up; CI runs the same ones.
VENV := .venv
PY := $(VENV)/bin/python
export UV_PYTHON_DOWNLOADS := never
export UV_NO_PROGRESS := 1
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.ready  ## create .venv with everything locked (a no-op when nothing changed)

$(VENV)/.ready: requirements.lock pyproject.toml
	@test -x $(PY) || python3 -m venv $(VENV)
	@test -x $(VENV)/bin/uv || { echo "setup: installing uv"; $(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements-uv.lock; }
	@echo "setup: installing the locked requirements"
	@$(VENV)/bin/uv pip sync -q --python $(PY) --require-hashes requirements-uv.lock requirements.lock
	@$(VENV)/bin/uv pip install -q --python $(PY) --no-deps --no-build-isolation -e .
	@touch $@

LOCK := $(VENV)/bin/uv pip compile -q --generate-hashes --no-emit-index-url --no-header --no-annotate --universal --python-version 3.11

lock:  ## write requirements.lock anew from pyproject.toml, and from it those of the containers
	$(LOCK) --all-extras --group dev pyproject.toml requirements-build.in -o requirements.lock $(LOCK_ARGS)
	$(LOCK) --extra installation --extra emulators -c requirements.lock pyproject.toml requirements-build.in -o containers/requirements.lock
	$(LOCK) -c requirements.lock containers/site/requirements.in -o containers/site/requirements.lock

up: setup  ## start the whole system on embedded defaults
	@$(VENV)/bin/farlab up

lint: setup  ## ruff, types, import contracts
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@PYTHONPATH=. $(VENV)/bin/lint-imports --no-cache

test: lint  ## everything that needs no root and no Docker
	@$(PY) -m pytest -n auto --dist loadgroup -m "not real"

test-real: lint  ## the same plus what needs real servers and a browser
	@$(PY) -m pytest -n auto --dist loadgroup --ignore=tests/real/containers
	@$(PY) -m pytest tests/real/containers

check: setup  ## start everything, use it as a user would, stop it, look for what is left
	@$(VENV)/bin/farlab up --check

simulate: setup  ## simulated crashes for SECONDS=60, or one SEED=n (FAULTS=0,3), or MUTATIONS=all
	@$(PY) -m tests.simulation $(if $(SEED),--seed $(SEED) $(if $(FAULTS),--faults $(FAULTS)),$(if $(MUTATIONS),--mutations $(filter-out all,$(MUTATIONS)),--seconds $(or $(SECONDS),60)))

orders: setup  ## small simulated worlds in every order of their moments for SECONDS=30, or one SEED=n
	@$(PY) -m tests.simulation.orders $(if $(SEED),--seed $(SEED),--seconds $(or $(SECONDS),30))

deciders: setup  ## the deciders alone in thousands of small worlds for SECONDS=30, or one SEED=n
	@$(PY) -m tests.simulation.deciders $(if $(SEED),--seed $(SEED),--seconds $(or $(SECONDS),30))

test-kill: setup  ## KILLS=200 of a running installation's parts under load, and the verdict
	@$(PY) -m tests.kill --kills $(or $(KILLS),200) --servers $(or $(SERVERS),50) $(if $(SEED),--seed $(SEED))

test-tunnels: setup  ## TUNNELS=300 with live websockets, and what leads to them is killed
	@$(PY) -m tests.kill.tunnels --tunnels $(or $(TUNNELS),300)

soak: setup  ## SESSIONS=5000 over their lives, and what grows meanwhile
	@$(PY) -m tests.soak --sessions $(or $(SESSIONS),5000)

fuzz: setup  ## SECONDS=30 of coverage-guided fuzzing for each input from outside
	@$(PY) -m tests.fuzz --seconds $(or $(SECONDS),30)

bench: setup  ## the benchmarks, a line of JSON each
	@$(PY) -m benchmarks.start_chain --json
	@$(PY) -m benchmarks.replay --json
	@$(PY) -m benchmarks.at_rest --json
	@$(PY) -m benchmarks.tunnels --json

.PHONY: help setup lock up lint test test-real check simulate orders deciders test-kill test-tunnels soak fuzz bench
