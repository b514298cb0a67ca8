"""`moonshine-lora run`: the whole job from one file: manifests, experiment, verdict.

The file names the manifests to build, each with the options of `build-manifest`, and the options of
`experiment`. Every stage is printed as the command that repeats it alone.
"""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora.config import ExperimentConfig, option
from lora.errors import ConfigError
from lora.runners.build import BuildOptions, check_options
from lora.scripts import build_manifest, experiment
from lora.scripts.cli import EXIT_SUCCESS, PROGRAM, Command, parse_options, read_yaml, run_command

SECTIONS = ("manifests", "experiment")
PLACEHOLDER = re.compile(r"\{\w*\}")


@dataclass(frozen=True)
class RunOptions:
    """Options of `run`."""

    config: Path = option(Path("configs/demo.yaml"), help="file with the sections `manifests` and `experiment`")
    seed: int = option(42, help="value of {seed} in the file")
    fsdd: Path = option(Path("../shared/fsdd"), help="value of {fsdd} in the file: the FSDD folder")
    resume: bool = option(False, help="let the experiment go on where it was stopped; finished manifests stay")
    restart: bool = option(False, help="discard the experiment's unfinished training and train anew")
    overwrite: bool = option(False, help="keep files of yours in the output folder beside the new ones")
    dry_run: bool = option(False, help="check everything and print the commands, but run nothing")


@dataclass(frozen=True)
class Stage:
    """One command of the job, already checked."""

    command: Command
    arguments: tuple[str, ...]
    options: Any

    @property
    def line(self) -> str:
        """The stage as a command line."""
        return shlex.join([PROGRAM, self.command.name, *self.arguments])


def run(options: RunOptions) -> int:
    """Check every stage, then run them in order; the first exit code that is not 0 stops the job."""
    for stage in plan_stages(options):
        print(f"$ {stage.line}", file=sys.stderr)
        code = None if options.dry_run else stage.command.run(stage.options)
        if code:
            return code
    return EXIT_SUCCESS


def plan_stages(options: RunOptions) -> list[Stage]:
    """Read the file and check every stage's options before anything runs.

    Raises:
        ConfigError: every fault of the file at once.
    """
    values = {"seed": str(options.seed), "fsdd": str(options.fsdd)}
    document = _read(options.config)
    problems: list[str] = []
    stages: list[Stage] = []
    flags = {name: True for name in ("resume", "restart", "overwrite") if getattr(options, name)}
    document["experiment"] |= flags
    sections = [(f"manifests.{name}", build_manifest.COMMAND, part) for name, part in document["manifests"].items()]
    for name, command, section in [*sections, ("experiment", experiment.COMMAND, document["experiment"])]:
        try:
            stages.append(plan_stage(command, section, values))
        except ConfigError as error:
            problems += [f"{name}: {line}" for line in error.problems or [error.message]]
    if problems:
        raise ConfigError(f"{options.config}: {len(problems)} fault(s)", problems)
    return stages


def plan_stage(command: Command, section: Mapping[str, Any], values: Mapping[str, str]) -> Stage:
    """Return one stage with its options parsed and in range; `values` fill `{name}` in the section.

    Raises:
        ConfigError: every fault of the section at once.
    """
    positional = [name for name, field in command.fields.items() if field.metadata.get("positional")]
    arguments = section_arguments(section, values, positional)
    options = parse_options(command, arguments)
    if isinstance(options, ExperimentConfig):
        options.check()
    elif isinstance(options, BuildOptions):
        check_options(options)
    return Stage(command, tuple(arguments), options)


def _read(path: Path) -> dict[str, Any]:
    document = read_yaml(path)
    found = list(document) if isinstance(document, dict) else document
    if not isinstance(document, dict) or set(document) != set(SECTIONS):
        raise ConfigError(f"{path}: got the sections {found!s:.100}; expected exactly {' and '.join(SECTIONS)}.")
    # A job may start from manifests that are there already.
    document["manifests"] = {} if document["manifests"] is None else document["manifests"]
    wrong = [name for name in SECTIONS if not isinstance(document[name], dict)]
    if not wrong:
        wrong = [f"manifests.{name}" for name, part in document["manifests"].items() if not isinstance(part, dict)]
    if wrong:
        raise ConfigError(f"{path}: {', '.join(wrong)}: expected a mapping of option names to values.")
    return document


def section_arguments(
    section: Mapping[str, Any], values: Mapping[str, str], positional: Sequence[str] = ()
) -> list[str]:
    """Return a section as command line words, with `{name}` filled in from `values`; `positional` ones come first.

    Raises:
        ConfigError: every option without a value, or with braces around another name.
    """
    words: list[str] = []
    problems: list[str] = []
    for key, value in section.items():
        flag = str(key).replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
            continue
        items = [_fill(str(item), values) for item in (value if isinstance(value, list) else [value])]
        if value is None or isinstance(value, dict) or not items:
            problems.append(f"{key}: got {value!r}, expected a value or a list of values")
        unknown = sorted(set(PLACEHOLDER.findall(" ".join(items))))
        if unknown and not isinstance(value, dict):
            known = ", ".join(f"{{{name}}}" for name in values)
            problems.append(f"{key}: {', '.join(unknown)} is not filled in; the file can use {known}")
        words = [*items, *words] if key in positional else [*words, f"--{flag}", *items]
    if problems:
        raise ConfigError("options without a usable value", problems)
    return words


def _fill(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


COMMAND = Command(
    name="run",
    options=RunOptions,
    run=run,
    description="Run the whole job: build the manifests, measure, train, measure again, decide, report.",
    examples="""
        moonshine-lora run
        moonshine-lora run --config configs/fsdd_accents.yaml --seed 43 --fsdd ../shared/fsdd
        moonshine-lora run --resume
        moonshine-lora run --config configs/librispeech_tiny.yaml --dry-run
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
