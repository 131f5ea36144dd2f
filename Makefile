# Every word works from a bare clone with Python 3.11+, make and git: what is missing is installed first.

VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# One more than two cores: tests wait for a third of their time.
JOBS ?= 3
# Commands of servers and linters that .ci/services has brought for tests.
export PATH := $(CURDIR)/.services/bin:$(PATH)

# The first Python from 3.11 on that can make an environment.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo $$python && break; done)

.DEFAULT_GOAL := help
.PHONY: help install proto check test fuzz slurm demo bench gpu federated attacks attack clean

help: ## list these words
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv with everything that is needed

$(INSTALLED): setup.py
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer with the venv module was found;" \
		"install one, or name it: make install PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "installing into $(VENV) with $(PYTHON); PyTorch makes this a download of some gigabytes, a few minutes ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

proto: $(INSTALLED) ## generate the stubs in protos/ from the contract
	$(BIN)/python -m tests.tools.stubs

check: $(INSTALLED) ## format, lint, types, stubs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m tests.tools.stubs --check

# With bytecode, also where it is turned off: else each of the tests' programs would compile all that it imports.
test: $(INSTALLED) ## run the tests, JOBS=3 at a time; ARGS="-k name" passes arguments on
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(ARGS)

fuzz: $(INSTALLED) ## a million mutated inputs for every payload kind and RPC; ARGS="--seed 1" passes on
	$(BIN)/python -m tests.fuzz $(ARGS)

slurm: $(INSTALLED) ## the Slurm script in a real Slurm of one node, a minute; .ci/services installs it
	SLURM=1 $(BIN)/python -m pytest -q tests/deploy/test_slurm.py $(ARGS)

demo: $(INSTALLED) ## train with a leader and two learners here; DATA=DIR holds CIFAR-10
	@$(BIN)/python -m scripts.demo $(if $(DATA),--data "$(DATA)") $(ARGS)

# Results go to runs/; PUBLISH=1 writes over the committed ones in docs/benchmarks instead.
STUDY = $(if $(DATA),--data "$(DATA)") $(if $(QUICK),--quick) $(if $(PUBLISH),--publish) $(ARGS)

bench: $(INSTALLED) ## measure, into runs/bench; DATA=DIR holds CIFAR-10; QUICK=1 takes some minutes
	$(BIN)/python -m benchmarks $(STUDY)

# The machine's own Python with its PyTorch: nothing is installed, and the rest of what setup.py names may be missing.
GPU_NEEDS := torch numpy grpc pydantic rich safetensors matplotlib pytest
GPU_PYTHON = $(if $(filter file,$(origin PYTHON)),python3,$(PYTHON))

gpu: ## tests and figures on a GPU, 8 minutes, by python3 as it is, or PYTHON=...; DATA=DIR holds CIFAR-10
	@lacks=$$($(GPU_PYTHON) -c 'import importlib.util as u, sys; print(*(n for n in sys.argv[1:] if not u.find_spec(n)))' \
		$(GPU_NEEDS)) && test -z "$$lacks" || { echo "error: $(GPU_PYTHON) lacks $${lacks:-everything}; name a Python" \
		"that has PyTorch and the rest: make gpu PYTHON=/path/to/python3" >&2; exit 1; }
	@$(GPU_PYTHON) -m benchmarks.gpu $(if $(DATA),--data "$(DATA)") $(if $(QUICK),--quick) $(ARGS)

federated: $(INSTALLED) ## the table of federated algorithms on CIFAR-10 (DATA=DIR), 2 hours; QUICK=1 takes 10 minutes
	$(BIN)/python -m benchmarks.federated $(STUDY)

attacks: $(INSTALLED) ## false updates against robust rules: accuracy on CIFAR-10 (DATA=DIR); QUICK=1 takes some minutes
	$(BIN)/python -m benchmarks.attacks $(STUDY)

attack: $(INSTALLED) ## hostile callers against a running leader, a minute each, an hour in all; ARGS="--only NAME" runs one
	$(BIN)/python -m tests.attacks $(ARGS)

clean: ## remove what make has built; runs/ and data/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
