"""A manifest with every fault that the doctor knows, one of each, among clean synthetic speech."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from lora.data.sources.base import Clip
from lora.data.sources.fsdd import DIGIT_WORDS
from lora.data.sources.synthetic import read_synthetic
from lora.units import Wave

TRAIN_VOICES = ("en-us+m1", "en-us+m2", "en-us+f1", "en-us+f3")
TEST_VOICES = ("en-us+m3", "en-us+f2")
NUM_CLEAN = 24

Row = dict[str, Any]


@dataclass
class Torture:
    """The two manifests, and for each code the ids at which it must be found: no more, no fewer."""

    train: Path
    evaluation: Path
    expected: dict[str, set[str]] = field(default_factory=dict)


def speak(samples: int, split: str, voices: tuple[str, ...], seed: int) -> list[Clip]:
    return list(read_synthetic(samples=samples, seed=seed, split=split, voices=voices, min_digits=4, max_digits=7))  # type: ignore[arg-type]


def write_clean(folder: Path, name: str, clips: list[Clip]) -> Path:
    """Write clips as 16-bit WAV files with a manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(Builder(folder).row(clip)) + "\n" for clip in clips))
    return path


class Builder:
    """Writes rows with faults; each fault takes a clip of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[bytes] = []
        self.expected: dict[str, set[str]] = {}

    def row(
        self, clip: Clip, *, id: str | None = None, wave: Wave | None = None, rate: int = 16_000, **keys: Any
    ) -> Row:
        """Write the clip's audio and return its row."""
        name = id or clip.id
        audio = f"{name}.wav"
        subtype = "FLOAT" if wave is not None and not np.isfinite(wave).all() else "PCM_16"
        soundfile.write(self.folder / audio, clip.wave if wave is None else wave, rate, subtype=subtype)
        return {"id": name, "audio": audio, "text": clip.text, "speaker_id": clip.speaker_id} | keys

    def add(self, row: Row, *codes: str) -> None:
        self.lines.append(json.dumps(row, ensure_ascii=False).encode("utf-8"))
        for code in codes:
            self.expected.setdefault(code, set()).add(row["id"])

    def add_raw(self, line: bytes, code: str, id: str | None = None) -> None:
        self.lines.append(line)
        self.expected.setdefault(code, set()).add(id or f"train:{len(self.lines)}")


def build_torture(folder: Path) -> Torture:
    """Build the manifests in `folder`."""
    clips = iter(speak(80, "train", TRAIN_VOICES, 1))
    held_out = speak(12, "test", TEST_VOICES, 3)
    evaluation = write_clean(folder / "evaluation", "evaluation", held_out)
    root = folder / "train"
    root.mkdir()
    build = Builder(root)
    for _ in range(NUM_CLEAN):
        build.add(build.row(next(clips)))
    _add_broken_rows(build, lambda: next(clips), folder)
    _add_broken_files(build, lambda: next(clips))
    _add_bad_samples(build, lambda: next(clips))
    _add_bad_texts(build, lambda: next(clips))
    _add_bad_sets(build, lambda: next(clips), held_out)
    path = root / "train.jsonl"
    path.write_bytes(b"\n".join(build.lines) + b"\n")
    return Torture(path, evaluation, build.expected)


def _add_broken_rows(build: Builder, take: Callable[[], Clip], folder: Path) -> None:
    build.add_raw(b'{"id": "cut", "audio": "a.wav", "te', "invalid-json")
    build.add_raw(b"", "empty-line")
    build.add_raw(b'\xef\xbb\xbf{"id": "bom", "audio": "a.wav", "text": "one"}', "byte-order-mark", "bom")
    build.add(build.row(take(), id="bad-speaker", speaker_id=1.5), "invalid-field")
    first = json.loads(build.lines[0])["id"]
    # The same id again, so the file of the first is not overwritten.
    build.add(build.row(take(), id="second-use") | {"id": first}, "duplicate-id")
    soundfile.write(folder / "outside.wav", take().wave, 16_000)
    build.add({"id": "leaves", "audio": "../outside.wav", "text": "one two"}, "unsafe-path")
    build.add({"id": "gone", "audio": "gone.wav", "text": "one two"}, "missing-audio")
    build.add({"id": "odd-wave", "audio": [0.1, "x"], "text": "one two"}, "invalid-waveform")
    build.add(build.row(take(), id="no-words", text=" ... "), "empty-text")
    build.add_raw(
        json.dumps(build.row(take(), id="surrogate", text="one \ud800")).encode(), "invalid-unicode", "surrogate"
    )


def _add_broken_files(build: Builder, take: Callable[[], Clip]) -> None:
    row = build.row(take(), id="html")
    (build.folder / "html.wav").write_text("<!doctype html><title>404</title>")
    build.add(row, "not-audio")
    clip = take()
    row = build.row(clip, id="flac-named-wav")
    soundfile.write(build.folder / "flac-named-wav.wav", clip.wave, 16_000, format="FLAC")
    build.add(row, "mislabelled")
    row = build.row(take(), id="no-header")
    (build.folder / "no-header.wav").write_bytes(b"RIFF\x10\0\0\0WAVEjunkjunk")
    build.add(row, "unreadable")
    row = build.row(take(), id="empty-file")
    (build.folder / "empty-file.wav").write_bytes(b"")
    build.add(row, "unreadable")
    row = build.row(take(), id="cut-wav")
    data = (build.folder / "cut-wav.wav").read_bytes()
    (build.folder / "cut-wav.wav").write_bytes(data[: len(data) // 2])
    build.add(row, "truncated")
    clip = take()
    row = build.row(clip, id="cut-flac") | {"audio": "cut-flac.flac"}
    soundfile.write(build.folder / "cut-flac.flac", clip.wave, 16_000)
    data = (build.folder / "cut-flac.flac").read_bytes()
    (build.folder / "cut-flac.flac").write_bytes(data[: len(data) // 2])
    build.add(row, "truncated")
    clip = take()
    build.add(build.row(clip, id="less-than-said", duration=len(clip.wave) / 16_000 + 1.0), "truncated")
    clip = take()
    build.add(build.row(clip, id="more-than-said", duration=len(clip.wave) / 16_000 - 0.5), "duration-mismatch")
    row = build.row(take(), id="bomb") | {"audio": "bomb.flac"}
    soundfile.write(build.folder / "bomb.flac", np.zeros(3_700_000, dtype=np.int16), 1000)
    build.add(row, "too-large")


def _add_bad_samples(build: Builder, take: Callable[[], Clip]) -> None:
    wave = (clip := take()).wave.copy()
    wave[100] = np.nan
    build.add(build.row(clip, id="nan", wave=wave), "non-finite")
    clip = take()
    build.add(build.row(clip, id="silent", wave=np.zeros_like(clip.wave)), "silence")
    clip = take()
    build.add(build.row(clip, id="only-offset", wave=np.full_like(clip.wave, 0.25)), "silence")
    clip = take()
    build.add(build.row(clip, id="faint", wave=clip.wave * np.float32(2e-3)), "quiet")
    clip = take()
    build.add(build.row(clip, id="clipped", wave=np.clip(clip.wave * 20, -1, 1)), "clipping")
    clip = take()
    build.add(build.row(clip, id="clipped-then-lowered", wave=np.clip(clip.wave * 20, -1, 1) * 0.5), "clipping")
    clip = take()
    build.add(build.row(clip, id="offset", wave=clip.wave * 0.5 + np.float32(0.1)), "dc-offset")
    clip = take()
    build.add(build.row(clip, id="short", wave=clip.wave[4000:4800]), "too-short")
    clip = take()
    repeats = int(np.ceil(21 * 16_000 / len(clip.wave)))
    long_text = " ".join([clip.text] * repeats)
    build.add(build.row(clip, id="long", wave=np.tile(clip.wave, repeats), text=long_text), "too-long")
    clip = take()
    # Samples taken at 8 kHz under a header that says 16 kHz: twice as fast, an octave higher.
    build.add(build.row(clip, id="rate-lie", wave=clip.wave[::2]), "wrong-rate")


def _add_bad_texts(build: Builder, take: Callable[[], Clip]) -> None:
    build.add(build.row(clip := take(), id="bell", text=clip.text.replace(" ", "\u0007 ", 1)), "control-character")
    build.add(build.row(clip := take(), id="zero-width", text="\u200b" + clip.text), "control-character")
    build.add(build.row(clip := take(), id="unk", text=f"{clip.text} <UNK>"), "unknown-word-tag")
    build.add(build.row(clip := take(), id="noise-tag", text=f"{clip.text} [noise]"), "bracket-tag")
    build.add(build.row(clip := take(), id="capitals", text=clip.text.upper()), "casing")
    clip = take()
    digits = " ".join(str(DIGIT_WORDS.index(word)) for word in clip.text.split())
    build.add(build.row(clip, id="digits", text=digits), "mixed-numbers")
    clip = take()
    build.add(build.row(clip, id="cyrillic", text=" ".join("раз" for _ in clip.text.split())), "other-script")
    build.add(build.row(take(), id="much-text", text=" ".join(["seven"] * 60)), "text-rate")
    build.add(build.row(take(), id="endless-text", text=" ".join(["seven"] * 194)), "text-too-long")


def _add_bad_sets(build: Builder, take: Callable[[], Clip], held_out: list[Clip]) -> None:
    clip = take()
    build.add(build.row(clip, id="original"))
    row = build.row(clip, id="copy") | {"audio": "copy.flac"}
    samples, rate = soundfile.read(build.folder / "copy.wav", dtype="int16")
    soundfile.write(build.folder / "copy.flac", samples, rate)
    (build.folder / "copy.wav").unlink()
    build.add(row, "duplicate-audio")
    clip = take()
    build.add(build.row(clip, id="at-16-khz"))
    fast = soxr.resample(0.4 * clip.wave, 16_000, 44_100)
    build.add(build.row(clip, id="at-44-khz", wave=fast, rate=44_100), "duplicate-recording")
    clip = take()
    build.add(build.row(clip, id="one-text"), "conflicting-text")
    build.add(build.row(clip, id="other-text", text=clip.text + " nine"), "conflicting-text")
    build.add(build.row(take(), id="alone", speaker_id="nobody else"), "single-clip-speaker")
    build.add(build.row(take(), id=held_out[0].id), "leak-id")
    clip = held_out[1]
    build.add(build.row(clip, id="same-audio", speaker_id=TRAIN_VOICES[0], text="nine nine nine"), "leak-audio")
    fast = soxr.resample(0.4 * held_out[3].wave, 16_000, 48_000)
    keys = {"speaker_id": TRAIN_VOICES[0], "text": "nine nine one"}
    build.add(build.row(held_out[3], id="same-recording", wave=fast, rate=48_000, **keys), "leak-recording")
    build.add(build.row(take(), id="same-speaker", speaker_id=TEST_VOICES[0]), "leak-speaker", "single-clip-speaker")
    build.add(build.row(take(), id="same-text", text=held_out[2].text), "leak-text")
