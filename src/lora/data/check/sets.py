"""Faults of sets of utterances: duplicates by content, one audio with two texts, lone speakers, leakage."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from lora.data.check.rows import CheckedRow
from lora.data.leakage import LeakKind, LeakRow, find_leaks, transcript_key

LEAK_CODES: dict[LeakKind, str] = {
    "id": "leak-id",
    "audio": "leak-audio",
    "recording": "leak-recording",
    "speaker": "leak-speaker",
    "transcript": "leak-text",
}


def check_duplicates(rows: Sequence[CheckedRow]) -> None:
    """Mark all but the first copy of an audio or a recording, within and across the manifests of one side.

    Copies whose texts differ are all marked: one of them is wrong, and nothing here tells which.
    """
    by_content: dict[str, list[CheckedRow]] = defaultdict(list)
    by_recording: dict[int, list[CheckedRow]] = defaultdict(list)
    for row in rows:
        if row.facts is not None and not row.has_error:
            if row.facts.sha256 not in by_content and row.recording is not None:
                by_recording[row.recording].append(row)
            by_content[row.facts.sha256].append(row)
    for first, *others in by_recording.values():
        for row in others:
            detail = f"likely the same recording as {_name(first, row)}"
            if transcript_key(row.text) != transcript_key(first.text):
                detail += f", with the text {row.text[:60]!r} and not {first.text[:60]!r}"
            row.faults.append(("duplicate-recording", detail))
    for copies in by_content.values():
        if len(copies) == 1:
            continue
        first = copies[0]
        if len({transcript_key(row.text) for row in copies}) > 1:
            for row in copies:
                other = next(one for one in copies if transcript_key(one.text) != transcript_key(row.text))
                detail = f"{row.text[:60]!r}, but {other.text[:60]!r} in {_name(other, row)}"
                row.faults.append(("conflicting-text", detail))
            continue
        for row in copies[1:]:
            row.faults.append(("duplicate-audio", f"same audio as {_name(first, row)}"))


def check_speakers(rows: Sequence[CheckedRow]) -> None:
    """Mark the clips of speakers who have no other in a manifest of several clips."""
    counts = Counter(str(row.speaker_id) for row in rows if row.speaker_id is not None)
    if len(rows) < 2:
        return
    for row in rows:
        if row.speaker_id is not None and counts[str(row.speaker_id)] == 1:
            row.faults.append(("single-clip-speaker", f"speaker {row.speaker_id!r}"))


def check_leakage(train: Sequence[CheckedRow], evaluation: Sequence[CheckedRow]) -> None:
    """Mark every training row that shares something with an evaluation row, once for each kind of leak."""
    rows = {f"{row.manifest}\0{row.line}": row for row in (*train, *evaluation) if row.text}
    keys = {id(row): key for key, row in rows.items()}
    # The training rows are to be marked, all of them, so they take the place of the set that is looked up.
    for leak in find_leaks(
        [_leak_row(row, keys[id(row)]) for row in evaluation if row.text],
        [_leak_row(row, keys[id(row)]) for row in train if row.text],
    ):
        row, seen = rows[leak.evaluation_id], rows[leak.train_id]
        what = {
            "id": "id",
            "audio": "audio",
            "recording": "likely the recording",
            "speaker": f"speaker {row.speaker_id!r}",
            "transcript": f"text {row.text[:60]!r}",
        }[leak.kind]
        row.faults.append((LEAK_CODES[leak.kind], f"{what} of {seen.id} ({seen.manifest}:{seen.line})"))


def _leak_row(row: CheckedRow, key: str) -> LeakRow:
    return LeakRow(
        id=row.id if row.has_own_id else None,
        audio_sha256=row.facts.sha256 if row.facts is not None else None,
        speaker_id=row.speaker_id,
        text=row.text,
        shown_id=key,
        recording=row.recording,
    )


def _name(row: CheckedRow, seen_from: CheckedRow) -> str:
    return row.id if row.manifest == seen_from.manifest else f"{row.id} in {row.manifest}"
