"""Manifest rows read one by one: a bad row becomes faults, and the next row is read.

`read_manifest` refuses a file with faults; here the same row checks go on to the end. A waveform is let
go as soon as it was inspected, so memory does not grow with the audio.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from lora.bounded import parse_json
from lora.config import PreprocessConfig
from lora.data.check.audio import AudioFacts, Fault, inspect_audio
from lora.data.findings import RULES, Spot
from lora.data.manifest import MAX_ROW_BYTES, ManifestReader, Utterance, without_samples
from lora.errors import ManifestError
from lora.units import Seconds

QUEUED_PER_WORKER = 8

# What `manifest.py` says of a row, in the order in which a message is tried.
_CODES_BY_WORDS = (
    ("the line is empty", "empty-line"),
    ("byte order mark", "byte-order-mark"),
    ("not valid JSON", "invalid-json"),
    ("expected an object", "invalid-json"),
    ("the row is longer than", "invalid-json"),
    (": text is empty", "empty-text"),
    ("text has a lone surrogate", "invalid-unicode"),
    ("was used on line", "duplicate-id"),
    ("is not a path inside", "unsafe-path"),
    ("cannot be used", "unsafe-path"),
    ("does not exist or is not a regular file", "missing-audio"),
    ("the inline waveform", "invalid-waveform"),
)

Advance = Callable[[int], None]
"""Told how many rows were finished, for a progress bar."""


@dataclass(slots=True)
class CheckedRow:
    """One row with what was found in it.

    Attributes:
        manifest: path as given.
        line: 1-based.
        text: empty where the row could not be read.
        has_own_id: False where the id was made of the file's name and the line.
        facts: `None` where the row or its audio could not be read.
        source: the utterance, without the samples of an inline waveform; `None` for a row that could not be read.
        recording: a number that likely the same recordings have in common (`lora.data.fingerprint`).
    """

    manifest: str
    line: int
    id: str
    text: str = ""
    speaker_id: int | str | None = None
    has_own_id: bool = True
    facts: AudioFacts | None = None
    source: Utterance | None = None
    recording: int | None = None
    faults: list[Fault] = field(default_factory=list)

    @property
    def codes(self) -> set[str]:
        """The codes of the row's faults."""
        return {code for code, _ in self.faults}

    @property
    def has_error(self) -> bool:
        """Tell whether a fault of the row is an error."""
        return any(RULES[code].severity == "error" for code, _ in self.faults)

    def spots(self) -> list[Spot]:
        """Return the row's faults as spots."""
        return [Spot(code, self.manifest, self.line, self.id, detail) for code, detail in self.faults]


@dataclass(frozen=True)
class CheckSettings:
    """What a check goes by.

    Attributes:
        workers: threads that decode; libsndfile, NumPy and hashlib let others run meanwhile.
    """

    max_seconds: Seconds = 20.0
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    allow_outside: bool = False
    workers: int = 1


def read_rows(path: Path, *, allow_outside: bool) -> Iterator[tuple[int, Utterance | None, bytes, list[str]]]:
    """Yield line number, utterance (`None` for a bad row), raw line and faults in words of every line.

    Raises:
        ManifestError: the file is missing or cannot be read.
    """
    if not path.is_file():
        raise ManifestError(f"{path}: no such manifest. Build one with `moonshine-lora build-manifest`.")
    reader = ManifestReader(path, allow_outside=allow_outside)
    number = 0
    try:
        with path.open("rb") as file:
            while raw := file.readline(MAX_ROW_BYTES + 1):
                number += 1
                if len(raw) > MAX_ROW_BYTES:
                    yield number, None, b"", [f"the row is longer than {MAX_ROW_BYTES} bytes; reading stops here"]
                    return
                utterance, problems = reader.read_row(raw, number)
                yield number, utterance, raw, problems
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error


def check_rows(path: Path, settings: CheckSettings, advance: Advance) -> list[CheckedRow]:
    """Read every row and inspect its audio.

    Raises:
        ManifestError: the manifest is missing, cannot be read, or has no line.
    """
    rows: list[CheckedRow] = []
    pending: deque[tuple[CheckedRow, Future[tuple[AudioFacts | None, list[Fault]]]]] = deque()

    def finish() -> None:
        row, future = pending.popleft()
        row.facts, faults = future.result()
        row.faults += faults
        advance(1)

    start = 0
    with ThreadPoolExecutor(settings.workers) as pool:
        for number, utterance, raw, problems in read_rows(path, allow_outside=settings.allow_outside):
            row = _make_row(path, number, utterance, raw, problems)
            rows.append(row)
            start += len(raw)
            if utterance is None:
                advance(1)
                continue
            row.source = without_samples(utterance, path, start - len(raw), raw)
            task = pool.submit(inspect_audio, utterance, settings.preprocess, settings.max_seconds)
            pending.append((row, task))
            if len(pending) > QUEUED_PER_WORKER * settings.workers:
                finish()
        while pending:
            finish()
    if not rows:
        raise ManifestError(f"{path}: no utterances. Expected one JSON object a line.")
    return rows


def _make_row(path: Path, number: int, utterance: Utterance | None, raw: bytes, problems: list[str]) -> CheckedRow:
    made = f"{path.stem}:{number}"
    if utterance is None:
        faults = [(_code_of(problem), problem.removeprefix(f"{path}:{number}: ")) for problem in problems]
        return CheckedRow(str(path), number, _find_id(raw) or made, faults=faults)
    return CheckedRow(
        str(path),
        number,
        utterance.id,
        utterance.text,
        utterance.speaker_id,
        has_own_id=utterance.id != made,
    )


def _code_of(problem: str) -> str:
    return next((code for words, code in _CODES_BY_WORDS if words in problem), "invalid-field")


def _find_id(raw: bytes) -> str | None:
    """Return the id of a row that was refused, where it can still be read."""
    try:
        row = parse_json(raw.decode("utf-8-sig"))
    except ValueError:
        return None
    identifier = row.get("id") if isinstance(row, dict) else None
    if not isinstance(identifier, str) or not identifier.strip():
        return None
    return identifier.encode("utf-8", "replace").decode("utf-8")
