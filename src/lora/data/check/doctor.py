"""The whole check without a model: rows, audio, texts, sets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lora.data.audio import resample
from lora.data.check.rows import Advance, CheckedRow, CheckSettings, check_rows
from lora.data.check.sets import check_duplicates, check_leakage, check_speakers
from lora.data.check.texts import check_texts
from lora.data.findings import Finding, Spot, collect_findings, count_severities
from lora.data.fingerprint import Recording, group_recordings

Role = Literal["train", "eval", "any"]


@dataclass(frozen=True)
class CheckInput:
    """A manifest and what it is for; leakage is looked for from "train" to "eval"."""

    path: Path
    role: Role


@dataclass
class Check:
    """The state of a check: every row with its faults, and the faults of manifests as wholes."""

    inputs: tuple[CheckInput, ...]
    rows: dict[str, list[CheckedRow]]
    wholes: list[Spot] = field(default_factory=list)

    @property
    def findings(self) -> list[Finding]:
        """All findings, errors first."""
        return collect_findings([*self.wholes, *(spot for row in self.all_rows() for spot in row.spots())])

    @property
    def passed(self) -> bool:
        """True where no finding is an error."""
        return count_severities(self.findings)["error"] == 0

    def all_rows(self, *roles: Role) -> list[CheckedRow]:
        """Return the rows of all manifests, or of those with one of `roles`."""
        return [row for one in self.inputs if not roles or one.role in roles for row in self.rows[str(one.path)]]


def check_manifests(inputs: Sequence[CheckInput], settings: CheckSettings, advance: Advance) -> Check:
    """Check manifests one by one and against each other.

    Raises:
        ManifestError: a manifest is missing, cannot be read, or has no line.
    """
    check = Check(tuple(inputs), {str(one.path): check_rows(one.path, settings, advance) for one in inputs})
    for path, rows in check.rows.items():
        check.wholes += [Spot(code, path, 0, "", detail) for code, detail in check_texts(rows)]
        check_speakers([row for row in rows if row.text])
    _group_recordings(check)
    # Audio that is on both sides is a leak, and named as one; copies on one side are duplicates.
    check_duplicates(check.all_rows("train", "any"))
    check_duplicates(check.all_rows("eval"))
    check_leakage(check.all_rows("train"), check.all_rows("eval"))
    return check


def _group_recordings(check: Check) -> None:
    """Give every sound row the number of its recording."""
    rows = check.all_rows()
    for row, group in zip(rows, group_recordings([_recording_of(row) for row in rows]), strict=True):
        row.recording = group


def _recording_of(row: CheckedRow) -> Recording | None:
    source, facts = row.source, row.facts
    if source is None or facts is None or facts.sketch is None:
        return None
    return Recording(facts.sha256, facts.num_samples, facts.sketch, lambda: resample(*source.decode()))
