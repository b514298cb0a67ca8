"""Make a domain manifest by transforming another: options, progress, summary."""

from dataclasses import dataclass
from pathlib import Path

from lora.config import option
from lora.data.shift import shift_manifest
from lora.data.transforms import parse_transforms
from lora.runners.progress import progress_bar


@dataclass(frozen=True, kw_only=True)
class ShiftOptions:
    """Options of `shift`."""

    input: Path = option(help="manifest to transform", positional=True)
    transform: list[str] = option(help="transforms in their order, for example noise:pink:snr=5 telephone")
    output: Path = option(help="manifest to write; audio goes to <stem>_audio-<hash>/ beside it")
    seed: int = option(42, help="the same seed gives the same audio, whatever the order of the rows")
    allow_outside_audio: bool = option(False, help="accept audio paths outside the manifest's folder")

    def __post_init__(self) -> None:
        parse_transforms(self.transform)


def shift(options: ShiftOptions) -> str:
    """Transform and return what was written, in one line.

    Raises:
        InputError: as `shift_manifest`.
    """
    with progress_bar(f"writing {options.output.name}", count_rows(options.input)) as report:
        summary = shift_manifest(
            options.input,
            options.transform,
            options.output,
            seed=options.seed,
            allow_outside=options.allow_outside_audio,
            tick=lambda: report(1),
        )
    return (
        f"{summary.path}: {summary.utterances} utterances, {summary.seconds / 3600:.3f} hours through "
        f"{' '.join(map(str, summary.transforms))}, seed {options.seed}"
    )


def count_rows(path: Path) -> int:
    """Return about how many rows a manifest has, for a progress bar; 0 where there is none."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
