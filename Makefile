# Moonshine LoRA. `make` lists the targets. Every target that needs the environment makes it first.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
CONFIG ?= configs/demo.yaml
SEED ?= 42
FSDD ?= ../shared/fsdd
TESTS ?= tests
JOBS ?= 2

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.synced
LOCKS := requirements/torch.lock requirements/base.lock requirements/voice.lock requirements/dev.lock requirements/cuda.lock
CODE := src tests scripts requirements $(wildcard benchmarks packages)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv sync run real builtin bench-peer test test-slow test-voice mutants lint format check lock clean

help: ## List the targets
	@echo "usage: make TARGET [NAME=VALUE ...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "values: CONFIG=$(CONFIG) SEED=$(SEED) FSDD=$(FSDD) TESTS=$(TESTS) JOBS=$(JOBS) PYTHON=$(PYTHON)"

venv: $(PY) ## Create .venv with Python 3.11 or newer (PYTHON=...)

$(PY):
	@$(PYTHON) -c 'import sys; v = "%d.%d" % sys.version_info[:2]; sys.exit(sys.version_info < (3, 11) and "error: $(PYTHON) is Python " + v + "; expected 3.11 or newer. Give one: make venv PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

sync: $(STAMP) ## Install the locked packages and this project into .venv

$(STAMP): $(LOCKS) requirements/sync.py pyproject.toml $(wildcard packages/*/pyproject.toml) | $(PY)
	@$(PY) requirements/sync.py
	@touch $(STAMP)

run: $(STAMP) ## Run the whole job: make run [CONFIG=configs/librispeech_tiny.yaml]
	$(PY) -m lora run --config $(CONFIG)

real: $(STAMP) ## Run the job on real speech: make real [SEED=42] [FSDD=DIR]
	$(PY) -m lora real --seed $(SEED) --fsdd $(FSDD)

builtin: $(STAMP) ## Train builtin:digits from scratch into outputs/builtin-digits-2: make builtin [FSDD=DIR]
	for stage in 1 2; do $(PY) -m lora train-builtin --config configs/builtin_digits_$$stage.yaml --fsdd $(FSDD) || exit; done

bench-peer: $(STAMP) build/peer/.installed ## Compare with the official trainer: make bench-peer [FSDD=DIR] [BENCH="--rounds 5"]
	$(PY) benchmarks/peer.py --fsdd $(FSDD) $(BENCH)

build/peer/.installed: benchmarks/peer_requirements.txt
	$(PYTHON) -m venv build/peer
	build/peer/bin/python -m pip --disable-pip-version-check install --progress-bar off -r $<
	@touch $@

test: $(STAMP) ## Run the tests but the slow ones: make test [TESTS=tests/data] [JOBS=2]
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) -m "not slow" $(TESTS)

test-slow: $(STAMP) ## Run the slow tests: kills at every step, full disks, two processes
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) -m slow $(TESTS)

mutants: $(STAMP) ## Change a module in many ways, list what no test notices: make mutants MODULE=decision TESTS=tests/test_decision.py
	$(PY) tests/mutants.py --jobs $(JOBS) $(MODULE) $(TESTS)

test-voice: $(STAMP) ## Test the voice app through a virtual microphone (packages: CONTRIBUTING.md)
	MOONSHINE_TEST_VOICE=1 FSDD=$(FSDD) OMP_NUM_THREADS=1 $(PY) -m pytest tests/voice/test_end_to_end.py

lint: $(STAMP) ## Check style, formatting and types
	$(PY) -m ruff check $(CODE)
	$(PY) -m ruff format --check $(CODE)
	$(PY) -m mypy

format: $(STAMP) ## Rewrite the code in the project's format
	$(PY) -m ruff check --fix $(CODE)
	$(PY) -m ruff format $(CODE)

check: lint test ## What must pass before a change is merged

lock: $(PY) ## Resolve pyproject.toml anew and write requirements/*.lock
	@$(PY) -m uv --version >/dev/null || $(MAKE) sync  # not always: a new requirement is in no lock yet
	$(PY) requirements/lock.py

clean: ## Remove the environment, caches and build products; outputs/ and data/ stay
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests scripts requirements packages -name __pycache__ -type d -prune -exec rm -rf {} +
