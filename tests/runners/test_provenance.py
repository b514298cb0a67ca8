"""What a result needs to be repeated."""

import re
import shlex
from pathlib import Path

from lora import __version__
from lora.config import ExperimentConfig
from lora.runners.provenance import command_of, config_values, git_commit, package_versions
from lora.scripts import experiment
from lora.scripts.cli import parse_options

CONFIG = ExperimentConfig(
    output_dir=Path("out dir/run"),
    dataset_path=Path("a.jsonl"),
    manifest_path=Path("b.jsonl"),
    guardrail_manifest=[Path("c.jsonl"), Path("it's.jsonl")],
    learning_rate=2e-5,
    alignment_check=False,
)


def test_the_command_names_what_differs_from_the_defaults_and_parses_back() -> None:
    words = shlex.split(command_of("experiment", CONFIG))
    assert parse_options(experiment.COMMAND, words[2:]) == CONFIG
    assert "--no-alignment-check" in words
    assert "--rank" not in words


def test_config_values_are_plain_json_values() -> None:
    values = config_values(CONFIG)
    assert values["guardrail_manifest"] == ["c.jsonl", "it's.jsonl"]
    assert values["learning_rate"] == 2e-5
    assert values["replay_manifest"] is None
    assert values["alignment_check"] is False


def test_versions_of_what_a_result_depends_on_are_recorded() -> None:
    versions = package_versions()
    assert versions["moonshine-lora"] == __version__
    assert {"python", "torch", "transformers", "peft", "numpy"} <= versions.keys()


def test_the_commit_is_a_hash_or_unknown() -> None:
    commit = git_commit()
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(\+changes)?", commit)
