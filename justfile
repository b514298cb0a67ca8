# The same work as the Makefile, for those who type `just`, and commands that take words.
# `just` is in the environment: .venv/bin/just (or `source .venv/bin/activate`).

set shell := ["bash", "-euo", "pipefail", "-c"]

python := ".venv/bin/python"

# List the recipes
default:
    @just --list --justfile {{ justfile() }}

# Create or update .venv from the locked versions
sync:
    @make --no-print-directory --silent sync 1>&2

# Transcribe: just transcribe "talk.wav --adapter-dir outputs/demo/lora_adapter"
transcribe *ARGS: sync
    @{{ python }} scripts/run_stt.py {{ ARGS }}

# Run the whole job on a configuration file
run config="configs/demo.yaml":
    @make --no-print-directory run CONFIG={{ quote(config) }}

# Run the job on real speech
real seed="42":
    @make --no-print-directory real SEED={{ quote(seed) }}

# Adapt to one speaker: just personal recordings --output-dir outputs/me
personal *ARGS: sync
    @{{ python }} -m lora personal {{ ARGS }}

# Any command: just lora build-manifest --help
lora *ARGS: sync
    @{{ python }} -m lora {{ ARGS }}

# Run tests: just test tests/data -k wave
test *ARGS: sync
    OMP_NUM_THREADS=1 {{ python }} -m pytest -n 2 {{ ARGS }}

# Style, formatting and types
lint:
    @make --no-print-directory lint

# Rewrite the code in the project's format
format:
    @make --no-print-directory format

# Lint and test
check: lint test
