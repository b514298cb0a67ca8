"""`moonshine-lora COMMAND ...`: finds the command's module by name and hands it the rest of the line."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NamedTuple

from lora.errors import ConfigError
from lora.scripts.cli import EXIT_SUCCESS, EXIT_USER_INPUT, PROGRAM, answer


class Entry(NamedTuple):
    """Where a command lives, and its line in the list of commands."""

    module: str
    summary: str


# In the order of the work. Only the named module is imported, so the list costs nothing.
COMMANDS: dict[str, Entry] = {
    "run": Entry("lora.scripts.run", "the whole job from one configuration file: data, baseline, training, verdict"),
    "real": Entry("lora.scripts.real", "the whole job on real speech (FSDD): accents against US speakers"),
    "build-manifest": Entry("lora.scripts.build_manifest", "make a manifest from a corpus"),
    "build-domain-manifest": Entry("lora.scripts.build_domain_manifest", "make the manifest that a run improves"),
    "check": Entry("lora.scripts.check", "find faults in manifests: audio, texts, duplicates, leakage"),
    "manifest-diagnostics": Entry("lora.scripts.manifest_diagnostics", "durations and split of manifests, headroom"),
    "shift": Entry("lora.scripts.shift", "make a domain manifest: noise, telephone, rooms, speed, clipping"),
    "merge-manifests": Entry("lora.scripts.merge_manifests", "one manifest of several, duplicates found by audio"),
    "split": Entry("lora.scripts.split", "divide a manifest; no speaker is in two parts"),
    "sample": Entry("lora.scripts.sample", "draw a random part of a manifest"),
    "stats": Entry("lora.scripts.stats", "describe manifests in numbers"),
    "experiment": Entry("lora.scripts.experiment", "baseline, LoRA training, tuned result and verdict"),
    "personal": Entry("lora.scripts.personal", "one speaker's recordings to an adapter and a verdict, in one step"),
    "matrix": Entry("lora.scripts.matrix", "the experiments of a matrix file that are missing, and their table"),
    "sweep": Entry("lora.scripts.sweep", "search over training options, scored on development sets"),
    "report": Entry("lora.scripts.report", "write a finished run's reports again"),
    "training-report": Entry("lora.scripts.training_report", "the training report, filled from runs' own files"),
    "real-small": Entry("lora.scripts.real_small", "a small real run on a few utterances"),
    "run-stt": Entry("lora.scripts.run_stt", "transcribe and score audio, with or without an adapter"),
    "transcribe": Entry("lora.scripts.transcribe", "print the text of audio files"),
    "voice": Entry("lora.scripts.voice", "the terminal app: hear base and adapter, correct them, teach your voice"),
    "train-builtin": Entry("lora.scripts.train_builtin", "train the builtin digits model from scratch"),
    "average": Entry("lora.scripts.average", "the mean of several adapters as one adapter"),
    "merge": Entry("lora.scripts.merge", "a checkpoint with the adapter inside"),
    "clean": Entry("lora.scripts.clean", "remove what killed commands left; --dry-run lists it"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `moonshine-lora` and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] not in COMMANDS:
        return answer(PROGRAM, lambda: _without_command(arguments))
    code: int = importlib.import_module(COMMANDS[arguments[0]].module).main(arguments[1:])
    return code


def _without_command(arguments: Sequence[str]) -> int:
    if not arguments:
        print(help_text(), file=sys.stderr)
        return EXIT_USER_INPUT
    name = arguments[0]
    if name in ("-h", "--help"):
        print(help_text())
        return EXIT_SUCCESS
    if name == "--version":
        print(f"{PROGRAM} {metadata.version(PROGRAM)}")
        return EXIT_SUCCESS
    nearest = difflib.get_close_matches(name.replace("_", "-"), COMMANDS, n=1)
    hint = f" (did you mean {nearest[0]}?)" if nearest else ""
    raise ConfigError(f"{PROGRAM}: unknown command {name}{hint}. See '{PROGRAM} --help'.")


def help_text() -> str:
    """Return the list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {entry.summary}" for name, entry in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND [options]",
            "",
            "LoRA adapters for Moonshine speech-to-text: manifests, training, evaluation, verdict.",
            "",
            "commands:",
            *lines,
            "",
            "examples:",
            f"  {PROGRAM} run",
            f"  {PROGRAM} run-stt --help",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
