"""Work on examples, spread over the processes of a job: each does its share, and all get the whole."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from lora import processes
from lora.data.waves import WavesAhead
from lora.decoding import Recognizer
from lora.errors import CheckFailed
from lora.training.examples import Example
from lora.units import Wave

Row = TypeVar("Row")

Advance = Callable[[int], None]
"""Told how many utterances were finished, for a progress bar."""


def map_examples(
    recognizer: Recognizer,
    name: str,
    examples: Sequence[Example],
    work: Callable[[list[Example], list[Wave]], Sequence[Row]],
    advance: Advance,
) -> list[Row]:
    """Return one row an example, in their order, the same on every process.

    Args:
        name: of the work, for errors.
        examples: the same on every process.
        work: a batch and its waves -> its rows. They are pickled for the other processes: small, and on the CPU.

    Raises:
        CheckFailed: an example has two rows, or none.
        SetupError: one utterance alone does not fit into memory.
    """
    # By length, so that the shares take equally long and have little padding in their batches.
    share = processes.share_of(sorted(examples, key=lambda example: -example.num_samples))
    rows: list[tuple[str, Row]] = []
    with WavesAhead([example.audio for example in share]) as waves:

        def work_on(indices: list[int]) -> Sequence[Row]:
            return work([share[index] for index in indices], [waves[index] for index in indices])

        for indices, batch in recognizer.map_batches([example.num_samples for example in share], work_on):
            rows += zip([share[index].id for index in indices], batch, strict=True)
            advance(len(indices))
    gathered = processes.gather(rows)
    if len(share) < len(examples):
        advance(len(examples) - len(share))
    return _in_order(name, [example.id for example in examples], [row for part in gathered for row in part])


def _in_order(name: str, wanted: Sequence[str], rows: Sequence[tuple[str, Row]]) -> list[Row]:
    """Return the rows in the order of the ids `wanted`, each id's once."""
    times = Counter(key for key, _ in rows)
    problems = [f"{key}: done {times[key]} times" for key in {**times, **dict.fromkeys(wanted)} if times[key] != 1]
    if problems:
        raise CheckFailed(
            f"{name}: {len(rows)} results of {len(wanted)} utterances, expected one of each. Start all processes on "
            "the same manifests",
            problems,
        )
    by_id = dict(rows)
    return [by_id[key] for key in wanted]
