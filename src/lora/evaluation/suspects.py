"""What the base model says of a manifest: texts it cannot write, likely mislabelled clips, other style."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

from lora.data.check.doctor import Check
from lora.data.check.rows import CheckedRow, read_rows
from lora.data.check.texts import casing_of
from lora.data.findings import Spot
from lora.data.manifest import Manifest, Utterance
from lora.decoding import Recognizer
from lora.evaluation.score import EvaluationSet, UtteranceScore, score_set
from lora.evaluation.wer import ErrorCounts, pool
from lora.training.examples import Example
from lora.units import JsonObject, Seconds

ROWS_AT_ONCE = 512
"""Bounds the audio in memory; batches by length are made within."""
MIN_SUSPECT_WER = 0.5
OUTLIER_SPREADS = 3.0
MIN_SPREAD = 0.1
"""Nats a token: where every clip fits alike, a small difference is no outlier."""
STYLE_GAP = 0.5
PUNCTUATION = re.compile(r"[.,?!;:]")


@dataclass(frozen=True, slots=True)
class Suspect:
    """One utterance as the base model reads it; the first in a ranking is the likeliest to be mislabelled.

    Attributes:
        loss: nats a token of the manifest's text.
        flagged: True where both loss and error are far from the manifest's usual.
    """

    manifest: str
    line: int
    id: str
    seconds: Seconds
    reference: str
    hypothesis: str
    loss: float
    errors: ErrorCounts
    flagged: bool

    def to_json(self) -> JsonObject:
        """Return the suspect as a JSON object."""
        return {
            "manifest": self.manifest,
            "line": self.line,
            "id": self.id,
            "seconds": self.seconds,
            "reference": self.reference,
            "hypothesis": self.hypothesis,
            "loss_per_token": self.loss,
            "wer": self.errors.rate,
            "flagged": self.flagged,
        }


def check_with_model(
    check: Check, recognizer: Recognizer, *, allow_outside: bool, advance: Callable[[int], None]
) -> dict[str, list[Suspect]]:
    """Score every sound row of every manifest, add the model's faults to `check`, and rank the utterances.

    Returns:
        For each manifest its utterances, likely mislabelled first.
    """
    ranked: dict[str, list[Suspect]] = {}
    for path, rows in check.rows.items():
        for row in rows:
            # The model's own limit, in tokens, replaces the bound that holds without a model.
            row.faults = [fault for fault in row.faults if fault[0] != "text-too-long"]
        by_line = {row.line: row for row in rows if row.facts is not None and not row.has_error}
        scores = list(_score(Path(path), by_line, recognizer, allow_outside, advance))
        ranked[path] = rank_suspects(scores)
        for suspect in ranked[path]:
            if suspect.flagged:
                heard = f"heard {suspect.hypothesis[:60]!r}"
                detail = f"WER {suspect.errors.rate:.0%}, loss {suspect.loss:.2f} a token, {heard}"
                by_line[suspect.line].faults.append(("suspect-label", detail))
        texts = [(score.reference, score.hypothesis) for _, score in scores]
        check.wholes += [Spot(code, path, 0, "", detail) for code, detail in compare_style(texts)]
    return ranked


def rank_suspects(scores: Sequence[tuple[CheckedRow, UtteranceScore]]) -> list[Suspect]:
    """Rank by the mean of two ranks, that of the loss a token and that of the WER; ties by loss."""
    losses = {row.line: score.loss / score.num_tokens for row, score in scores}
    errors = {row.line: score.word_errors() for row, score in scores}
    rates = {line: counts.rate or 0.0 for line, counts in errors.items()}
    by_loss, by_rate = _places(losses), _places(rates)
    places = {line: by_loss[line] + by_rate[line] for line in losses}
    usual = median(losses.values()) if losses else 0.0
    spread = 1.4826 * median(abs(loss - usual) for loss in losses.values()) if losses else 0.0
    outlying = usual + OUTLIER_SPREADS * max(spread, MIN_SPREAD)
    suspects = [
        Suspect(
            manifest=row.manifest,
            line=row.line,
            id=row.id,
            seconds=row.facts.seconds if row.facts else 0.0,
            reference=score.reference,
            hypothesis=score.hypothesis,
            loss=losses[row.line],
            errors=errors[row.line],
            flagged=rates[row.line] >= MIN_SUSPECT_WER and losses[row.line] > outlying,
        )
        for row, score in scores
    ]
    return sorted(suspects, key=lambda one: (places[one.line], -one.loss, one.line))


def pooled_rate(suspects: Sequence[Suspect]) -> float | None:
    """Return the WER over all ranked utterances: the baseline, which says how much there is to win."""
    return pool([one.errors for one in suspects]).rate


def compare_style(texts: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield faults where references are cased or punctuated otherwise than what the model writes.

    Args:
        texts: (reference, hypothesis) pairs.
    """
    written = [(ref, hyp) for ref, hyp in texts if hyp]
    if not written:
        return
    usual = [Counter(kind for text in side if (kind := casing_of(text))) for side in zip(*written, strict=True)]
    if all(usual):
        ref_kind, hyp_kind = (counts.most_common(1)[0][0] for counts in usual)
        if ref_kind != hyp_kind:
            yield "style-casing", f"the texts have {ref_kind} case, the model writes {hyp_kind} case"
    ref_share, hyp_share = (
        sum(bool(PUNCTUATION.search(text)) for text in side) / len(written) for side in zip(*written, strict=True)
    )
    if abs(ref_share - hyp_share) > STYLE_GAP:
        yield "style-punctuation", f"{ref_share:.0%} of the texts have punctuation, {hyp_share:.0%} of the model's"


def _score(
    path: Path,
    by_line: dict[int, CheckedRow],
    recognizer: Recognizer,
    allow_outside: bool,
    advance: Callable[[int], None],
) -> Iterator[tuple[CheckedRow, UtteranceScore]]:
    utterances = (
        (by_line[number], utterance)
        for number, utterance, _, _ in read_rows(path, allow_outside=allow_outside)
        if utterance is not None and number in by_line
    )
    while chunk := list(islice(utterances, ROWS_AT_ONCE)):
        examples, rows = [], []
        for row, utterance in chunk:
            example = _build_example(row, utterance, recognizer)
            if example is None:
                advance(1)
                continue
            examples.append(example)
            rows.append(row)
        if examples:
            part = EvaluationSet(path.stem, Manifest(path, "", ()), tuple(examples), "")
            yield from zip(rows, score_set(recognizer, part, advance).utterances, strict=True)


def _build_example(row: CheckedRow, utterance: Utterance, recognizer: Recognizer) -> Example | None:
    """Return the example, or `None` with a fault added where the model cannot write its text."""
    bundle = recognizer.bundle
    assert row.facts is not None
    ids: list[int] = bundle.tokenizer(utterance.text, add_special_tokens=False).input_ids
    if not ids or (bundle.tokenizer.unk_token_id is not None and bundle.tokenizer.unk_token_id in ids):
        row.faults.append(("unknown-token", f"{utterance.text[:60]!r}"))
        return None
    if len(ids) + 1 > bundle.max_tokens:
        row.faults.append(("text-too-long", f"{len(ids)} tokens; the model emits at most {bundle.max_tokens - 1}"))
        return None
    limit = recognizer.decode.token_limit(row.facts.seconds, bundle.max_tokens)
    if len(ids) > limit:
        detail = f"{len(ids)} tokens in {row.facts.seconds:.1f} s; decoding stops at {limit}"
        row.faults.append(("decode-limit", detail))
    wave = utterance.load(recognizer.preprocess)
    return Example(utterance.id, wave, tuple(ids), utterance.text, utterance.speaker_id)


def _places(values: dict[int, float]) -> dict[int, float]:
    """Return each key's place when sorted with the greatest first; equal values share their mean place."""
    ordered = sorted(values.values(), reverse=True)
    first: dict[float, int] = {}
    for place, value in enumerate(ordered):
        first.setdefault(value, place)
    counts = Counter(ordered)
    return {key: first[value] + (counts[value] - 1) / 2 for key, value in values.items()}
