"""File transcription: the same audio path, decoding and settings as training and evaluation."""

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora import processes
from lora.config import DecodeSettings, DeviceName, PreprocessConfig, option
from lora.errors import ConfigError, InputError
from lora.escape import printable
from lora.outputs import check_file, inputs_of
from lora.units import JsonObject

if TYPE_CHECKING:
    from lora.data.manifest import Manifest
    from lora.data.waves import LazyWave
    from lora.decoding import Recognizer
    from lora.model.load import Bundle

KIND = "a transcription"
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True)
class TranscriptionConfig:
    """Options of `run-stt`."""

    audio: list[Path] = option(default_factory=list, positional=True, help="audio files, or folders of them")
    model_id: str = option("builtin:digits", help="hub id, local folder or builtin:digits")
    adapter_dir: Path | None = option(None, help="lora_adapter folder; without it the base model is heard")
    processor_dir: Path | None = option(None, help="processor folder of a run; the model's own unless given")
    audio_list: list[Path] = option(
        default_factory=list, help="audio files, or text files that name one audio file a line"
    )
    manifest: Path | None = option(None, help="manifest: its texts are the references for WER and CER")
    output: Path | None = option(None, help="JSON file for the result; standard output unless given")
    device: DeviceName = option("auto", help="auto takes CUDA, then MPS, then the CPU")
    batch_size: int = option(64, help="most utterances in a batch; the text does not depend on it")
    tokens_per_second: float | None = option(
        None, help="decode limit; the adapter's own, or 6.5 without an adapter, unless given"
    )
    allow_outside_audio: bool = option(False, help="accept audio paths outside the manifest's folder")

    def check(self) -> None:
        """Refuse wrong values.

        Raises:
            ConfigError: nothing to transcribe, both a manifest and files, or a value out of range.
        """
        files = bool(self.audio or self.audio_list)
        problems = []
        if files == (self.manifest is not None):
            problems.append("give either audio files (as arguments or with --audio-list) or --manifest")
        if self.batch_size < 1:
            problems.append(f"--batch-size {self.batch_size}: expected at least 1")
        if self.tokens_per_second is not None and not 0.1 <= self.tokens_per_second <= 1000:
            problems.append(f"--tokens-per-second {self.tokens_per_second}: expected 0.1 to 1000")
        if problems:
            raise ConfigError("run-stt cannot start", problems)


def transcribe_to_json(config: TranscriptionConfig) -> JsonObject:
    """Transcribe and score; return the document that `run-stt` writes. Of several processes each takes its share.

    The document has no time or path of the machine in it beyond those given, so the same call gives the
    same file.

    Raises:
        InputError: every audio file or row that cannot be used, at once; the model or adapter is wrong, or the place
            for the document holds something else.
    """
    config.check()
    with processes.one_fate(config.device):
        return _transcribe(config)


def _transcribe(config: TranscriptionConfig) -> JsonObject:
    from lora.data.manifest import read_manifest
    from lora.model.device import resolve_device
    from lora.model.load import load_bundle

    # Before the model: a wrong path should not have to wait for a download.
    paths = _audio_paths(config)
    manifest = (
        None
        if config.manifest is None
        else read_manifest(config.manifest, allow_outside=config.allow_outside_audio, stream_inline=True)
    )
    if config.output is not None and processes.is_main():
        check_file(config.output, _inputs(config, paths, manifest), kind=KIND)
    bundle = load_bundle(config.model_id, resolve_device(config.device), processor_dir=config.processor_dir)
    recognizer, adapter = _build_recognizer(config, bundle)
    document: JsonObject = {
        "schema_version": 1,
        "base_model": {"id": config.model_id, "sha256": bundle.sha256, "family": bundle.family.name},
        "adapter": adapter,
        "device": str(bundle.device),
        "preprocess": asdict(recognizer.preprocess),
        "decode": asdict(recognizer.decode),
    }
    return document | (_plain_texts(recognizer, paths) if manifest is None else _scored_texts(recognizer, manifest))


def _inputs(config: TranscriptionConfig, paths: list[Path], manifest: "Manifest | None") -> list[Path]:
    """Return every file that the command reads."""
    audio = [] if manifest is None else [row.audio for row in manifest.utterances if isinstance(row.audio, Path)]
    lists = [path for path in (config.manifest, *config.audio_list) if path is not None]
    return [*paths, *audio, *lists, *inputs_of(config.model_id, config.adapter_dir, config.processor_dir)]


def _build_recognizer(config: TranscriptionConfig, bundle: "Bundle") -> "tuple[Recognizer, JsonObject | None]":
    """Return the recognizer under the adapter's own settings, and what the document says about the adapter."""
    from lora.decoding import Recognizer
    from lora.model.adapters import load_adapter

    preprocess, decode = PreprocessConfig(), DecodeSettings()
    adapter: JsonObject | None = None
    if config.adapter_dir is not None:
        _, record = load_adapter(bundle, config.adapter_dir)
        preprocess, decode = record.preprocess, record.decode
        adapter = {"dir": str(config.adapter_dir), "sha256": record.adapter_sha256}
    if config.tokens_per_second is not None:
        decode = replace(decode, tokens_per_second=config.tokens_per_second)
    return Recognizer(bundle, preprocess, decode, batch_size=config.batch_size), adapter


def _scored_texts(recognizer: "Recognizer", manifest: "Manifest") -> JsonObject:
    from lora.evaluation.score import load_evaluation_set, score_set
    from lora.evaluation.wer import TEXT_STYLES
    from lora.runners.progress import progress_bar

    evaluation_set = load_evaluation_set(manifest.path.stem, manifest, recognizer)
    with progress_bar("transcribing", len(evaluation_set.examples)) as report:
        score = score_set(recognizer, evaluation_set, report)
    rows = [
        {
            "id": row.id,
            "reference": row.reference,
            "text": row.hypothesis,
            "errors": row.word_errors().errors,
            "words": row.word_errors().reference_length,
            "loss": row.loss / row.num_tokens,
            "ended": row.ended,
        }
        for row in score.utterances
    ]
    return {
        "manifest": {"path": str(manifest.path), "sha256": manifest.sha256},
        "samples": len(rows),
        "wer": score.wer(),
        "cer": score.cer(),
        "loss": score.loss,
        "text_styles": {style: {"wer": score.wer(style), "cer": score.cer(style)} for style in TEXT_STYLES},
        "utterances": rows,
    }


def _plain_texts(recognizer: "Recognizer", paths: list[Path]) -> JsonObject:
    from lora.runners.progress import progress_bar
    from lora.units import seconds_of

    waves = _check_files(recognizer, paths)
    own = processes.share_of(sorted(range(len(waves)), key=lambda index: -waves[index].num_samples))
    results: dict[int, JsonObject] = {}
    with progress_bar("transcribing", len(own)) as report:
        for places, transcripts in recognizer.stream([waves[index] for index in own]):
            for index, transcript in zip([own[place] for place in places], transcripts, strict=True):
                results[index] = {
                    "id": str(paths[index]),
                    "text": transcript.text,
                    "seconds": seconds_of(waves[index].num_samples),
                    "ended": transcript.ended,
                }
            report(len(places))
    for part in processes.gather(results):
        results |= part
    rows = [results[index] for index in range(len(paths))]
    return {"samples": len(rows), "wer": None, "cer": None, "utterances": rows}


def _check_files(recognizer: "Recognizer", paths: list[Path]) -> "list[LazyWave]":
    """Return the files' waves: decoded where all fit into memory; of more, the headers are checked."""
    from lora.data.manifest import Utterance
    from lora.data.wave_store import WaveStore
    from lora.data.waves import LazyWave
    from lora.runners.progress import progress_bar

    store = WaveStore(recognizer.preprocess, progress=progress_bar)
    measured = store.measure([Utterance(str(path), "", path) for path in paths])
    waves = [one for one in measured if isinstance(one, LazyWave)]
    problems = [one.message for one in measured if not isinstance(one, LazyWave)]
    if store.fits(waves):
        problems += [fault.message for fault in store.decode(waves, "reading audio") if fault is not None]
    if problems:
        raise InputError(f"{len(problems)} of {len(paths)} audio files cannot be used", problems)
    return waves


def _audio_paths(config: TranscriptionConfig) -> list[Path]:
    paths: list[Path] = []
    problems: list[str] = []
    for given in (*config.audio, *config.audio_list):
        if given.is_dir():
            found = sorted(path for path in given.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
            if not found:
                problems.append(f"{given}: no audio files ({', '.join(AUDIO_SUFFIXES)}) in this folder")
            paths += found
        elif given in config.audio_list and given.suffix.lower() not in AUDIO_SUFFIXES:
            paths += _read_list(given, problems)
        else:
            paths.append(given)
    problems += [f"{path}: no such audio file" for path in paths if not path.is_file()]
    if problems:
        raise InputError("run-stt cannot read its input", problems)
    return paths


def _read_list(path: Path, problems: list[str]) -> list[Path]:
    """Read a text file with one audio path a line, relative to the file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: neither audio nor a list of audio files ({error})")
        return []
    listed = [path.parent / line.strip() for line in lines if line.strip()]
    if not listed:
        problems.append(f"{path}: the list is empty; expected one audio path a line")
    return listed


def print_texts(document: JsonObject) -> None:
    """Print one line a file: its text alone for one file, with its name for several."""
    rows = document["utterances"]
    for row in rows:
        text = printable(row["text"])
        sys.stdout.write(f"{text}\n" if len(rows) == 1 else f"{printable(row['id'])}\t{text}\n")
