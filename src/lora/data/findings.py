"""Findings: what a check says about a manifest, with a code, a severity, utterance ids and what to do.

`RULES` holds every code once; `docs/data_checks.md` explains each and a test compares the two.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from lora.data.leakage import FORBIDDEN_KINDS, LeakKind
from lora.units import JsonObject

Severity = Literal["error", "warning"]
MAX_SHOWN_IDS = 5


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of fault.

    Attributes:
        title: what is the case, as the subject of a message: `3 clips: <title>`.
        advice: what to do.
        removable: leaving the utterance out mends it.
    """

    severity: Severity
    title: str
    advice: str
    removable: bool = True


def _leak(kind: LeakKind, title: str, advice: str) -> Rule:
    return Rule("error" if kind in FORBIDDEN_KINDS else "warning", title, advice)


_REMOVE = "Fix the row or remove it."
_REPLACE = "Replace the file from its source, or remove the row."

RULES: dict[str, Rule] = {
    # The row
    "invalid-json": Rule("error", "the line is not one JSON object of legal values", _REMOVE),
    "empty-line": Rule("error", "the line is empty", "Remove the line."),
    "byte-order-mark": Rule("error", "the line starts with a byte order mark", "Save the file as UTF-8 without one."),
    "invalid-field": Rule("error", "a key of the row has a value that it may not have", _REMOVE),
    "duplicate-id": Rule("error", "the id was used on an earlier line", "Make ids unique, or remove the later row."),
    "unsafe-path": Rule(
        "error",
        "the audio path leaves the manifest's folder",
        "Move the file inside, or pass --allow-outside-audio if you trust the manifest.",
    ),
    "missing-audio": Rule(
        "error", "the audio file does not exist or is not a regular file", "Restore it, or remove the row."
    ),
    "invalid-waveform": Rule("error", "the inline waveform is not a flat list of finite numbers", _REMOVE),
    # The audio
    "not-audio": Rule("error", "the file is not audio, whatever its name says", _REPLACE),
    "mislabelled": Rule(
        "warning", "the file is audio of another format than its name says", "Rename it: other tools go by the name."
    ),
    "unreadable": Rule("error", "the audio cannot be decoded", _REPLACE),
    "truncated": Rule("error", "the audio ends before its header or the `duration` key says", _REPLACE),
    "duration-mismatch": Rule(
        "warning", "the audio is longer than the `duration` key says", "Correct the key, or cut the clip."
    ),
    "too-large": Rule("error", "the audio decodes to more than the safety limit", "Cut it into utterances."),
    "non-finite": Rule("error", "samples are NaN, infinite or no audio", "Export the file again, or remove the row."),
    "silence": Rule("error", "there is nothing to hear", "Record it again, or remove the row."),
    "quiet": Rule(
        "warning", "the audio is so faint that scaling it up mostly raises noise", "Listen to it; record it again."
    ),
    "clipping": Rule("warning", "peaks are cut off flat", "Lower the recording level; prefer an undamaged copy."),
    "dc-offset": Rule(
        "warning", "the waveform does not swing around zero", "High-pass the audio, or check the recorder."
    ),
    "too-short": Rule("error", "the clip is shorter than the model can hear", "Remove the row, or join clips."),
    "too-long": Rule("warning", "the clip is longer than --max-seconds; training leaves it out", "Cut it at pauses."),
    "wrong-rate": Rule(
        "warning",
        "words come too fast or too slow for speech; the sampling rate in the header may be wrong",
        "Listen to it. If the voice is too high or too low, write the true rate into the header.",
    ),
    # The text
    "empty-text": Rule("error", "the text is empty or has no word", _REMOVE),
    "invalid-unicode": Rule("error", "the text is not valid Unicode", _REMOVE),
    "control-character": Rule(
        "error", "the text has control, private-use or replacement characters", "Clean the text; mind its encoding."
    ),
    "unknown-word-tag": Rule(
        "error",
        "the text holds <UNK> or the like, which a model would learn to write",
        "Write the word, or remove the row.",
    ),
    "bracket-tag": Rule(
        "warning",
        "the text holds tags in brackets, which a model would learn to write",
        "Take the tags out of the text.",
    ),
    "casing": Rule(
        "warning", "the casing is not that of the other texts", "Write all texts in one casing, the model's."
    ),
    "all-caps": Rule(
        "warning",
        "every text is in capitals, in which no Moonshine model writes",
        "Lower the texts, or build the manifest with --text-mode lower.",
        removable=False,
    ),
    "mixed-numbers": Rule(
        "warning", "numbers are digits here and spelled out in other texts", "Write numbers in one way, the model's."
    ),
    "other-script": Rule(
        "warning", "letters are of another script than in the other texts", "Check language and encoding."
    ),
    "text-rate": Rule(
        "warning",
        "far too much or too little text for the length of the audio",
        "Listen to it: text and audio may not belong together, or one was cut.",
    ),
    "text-too-long": Rule(
        "error", "the text is longer than a Moonshine model can emit", "Cut audio and text at pauses."
    ),
    "decode-limit": Rule(
        "warning",
        "the text has more tokens than decoding allows for its duration, so it can never be written whole",
        "Check the text; if it is right, raise --tokens-per-second in training and evaluation.",
    ),
    "unknown-token": Rule("error", "the model's tokenizer cannot write the text", "Replace the characters it lacks."),
    # Sets of utterances
    "duplicate-audio": Rule("error", "the audio is that of an earlier utterance", "Keep one of them."),
    "duplicate-recording": Rule(
        "warning",
        "likely the same recording as an earlier utterance, at another rate, level or format",
        "Keep one of them, unless you want its versions.",
    ),
    "conflicting-text": Rule(
        "error", "one audio has several different texts", "Listen, keep the right one, remove the others."
    ),
    "single-clip-speaker": Rule(
        "warning",
        "their speaker has no other clip: such speakers make a split by speaker, and its error bars, coarse",
        "Nothing, if speakers are that many; else check that speaker ids are people, not files.",
        removable=False,
    ),
    "leak-id": _leak("id", "the id is in an evaluation set too", "Remove it from training."),
    "leak-audio": _leak("audio", "the audio is in an evaluation set too", "Remove it from training."),
    "leak-recording": _leak(
        "recording", "likely the same recording is in an evaluation set too", "Remove it from training."
    ),
    "leak-speaker": _leak(
        "speaker",
        "the speaker is in an evaluation set too",
        "Nothing, to adapt to known voices; else split by speaker, or pass --remove leak-speaker.",
    ),
    "leak-text": _leak(
        "transcript",
        "the text is in an evaluation set too",
        "Expected of short commands; else remove it from training.",
    ),
    # With a model
    "suspect-label": Rule(
        "warning", "the base model reads something else, with confidence: likely mislabelled", "Listen on the page."
    ),
    "style-casing": Rule(
        "warning", "the texts are cased otherwise than the model writes", "Adapt the texts' casing.", removable=False
    ),
    "style-punctuation": Rule(
        "warning",
        "the texts are punctuated otherwise than the model writes; training on them will change that",
        "Restore punctuation, or accept that the tuned model writes as the texts do.",
        removable=False,
    ),
}


@dataclass(frozen=True, slots=True)
class Spot:
    """One fault at one row: what a finding is made of.

    Attributes:
        manifest: path as given.
        line: 1-based; 0 where the fault is the manifest's as a whole.
        detail: what was got, in words.
    """

    code: str
    manifest: str
    line: int
    id: str
    detail: str


@dataclass(frozen=True, slots=True)
class Finding:
    """All faults of one code in one manifest.

    Attributes:
        ids: utterances, in the manifest's order; empty where the manifest as a whole is meant.
        details: what was got, one for each of `ids` (one alone where there are no ids).
    """

    code: str
    severity: Severity
    manifest: str
    ids: tuple[str, ...]
    message: str
    advice: str
    details: tuple[str, ...] = field(default=(), repr=False)

    def to_json(self) -> JsonObject:
        """Return the finding as a JSON object."""
        return {
            "code": self.code,
            "severity": self.severity,
            "manifest": self.manifest,
            "ids": list(self.ids),
            "message": self.message,
            "advice": self.advice,
            "details": list(self.details),
        }


def collect_findings(spots: Iterable[Spot]) -> list[Finding]:
    """Join spots to one finding a code and manifest: errors first, then in the order of `RULES`."""
    groups: dict[tuple[str, str], list[Spot]] = {}
    for spot in spots:
        groups.setdefault((spot.code, spot.manifest), []).append(spot)
    findings = [_join(code, manifest, found) for (code, manifest), found in groups.items()]
    order = {code: position for position, code in enumerate(RULES)}
    return sorted(findings, key=lambda one: (one.severity != "error", order[one.code], one.manifest))


def count_severities(findings: Iterable[Finding]) -> Counter[Severity]:
    """Count findings by severity."""
    return Counter(finding.severity for finding in findings)


def _join(code: str, manifest: str, spots: list[Spot]) -> Finding:
    rule = RULES[code]
    spots = sorted(spots, key=lambda spot: spot.line)
    named = [spot for spot in spots if spot.line]
    if not named:
        message = f"{rule.title}: {spots[0].detail}"
    else:
        shown = "; ".join(f"{spot.id}: {spot.detail}" for spot in named[:MAX_SHOWN_IDS])
        more = f"; and {len(named) - MAX_SHOWN_IDS} more" if len(named) > MAX_SHOWN_IDS else ""
        message = f"{rule.title} ({len(named)} utterance{'s' if len(named) > 1 else ''}): {shown}{more}"
    return Finding(
        code=code,
        severity=rule.severity,
        manifest=manifest,
        ids=tuple(spot.id for spot in named),
        message=message,
        advice=rule.advice,
        details=tuple(spot.detail for spot in named or spots),
    )
