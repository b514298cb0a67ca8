"""`moonshine latency`: what a person waits for, measured through the app's own path.

Recordings are played at their own pace into the core, in place of a microphone; the model process, the partial texts
and the stop on silence are the app's. So the figures hold the waiting that a faster-than-real-time run hides.
"""

import json
import os
import platform
import queue
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soxr

from lora.errors import CheckFailed, InputError
from lora.files import scratch_folder
from lora.units import SAMPLE_RATE_HZ, JsonObject, Seconds
from lora_cli import events
from lora_cli.core import CoreSettings, VoiceCore
from lora_cli.engine import ModelChoice, ProcessEngine
from lora_cli.latency import percentile
from lora_cli.options import adapter_names
from lora_cli.ports import FilePort, read_pcm
from lora_cli.store import Store
from lora_cli.vad import SileroVad

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
TIMEOUT_S = 120.0
LEAD_S: Seconds = 0.3


def print_latency(
    audio: Sequence[Path],
    model_id: str,
    adapters: list[Path],
    *,
    takes: int,
    silence_s: Seconds,
    as_json: bool,
) -> int:
    """Measure and print."""
    choice = ModelChoice(model_id, tuple(zip(adapter_names(adapters), adapters, strict=True)))
    document = measure_latency(list_audio(audio), choice, takes=takes, silence_s=silence_s)
    if as_json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
    else:
        sys.stdout.write(as_table(document))
    return 0


def measure_latency(paths: Sequence[Path], choice: ModelChoice, *, takes: int, silence_s: Seconds) -> JsonObject:
    """Play `takes` takes and return the figures of every voice.

    Raises:
        CheckFailed: the model could not be loaded, or a text did not come.
    """
    clips = [pcm_at_16_khz(path) for path in paths]
    inbox: queue.SimpleQueue[events.Message] = queue.SimpleQueue()
    port = FilePort()
    with scratch_folder("latency") as folder:
        core = VoiceCore(
            port=port,
            engine=ProcessEngine(choice, folder / "model.log"),
            store=Store(folder, speaker="latency"),
            emit=inbox.put,
            settings=CoreSettings(silence_s=silence_s),
            detector=SileroVad,
        )
        core.start()
        try:
            wait_for(inbox, lambda message: isinstance(message, events.ModelState) and message.stage == "ready")
            for number in range(takes):
                core.press()
                time.sleep(LEAD_S)
                port.play(clips[number % len(clips)])
                wait_for(inbox, lambda m: isinstance(m, events.PhaseChanged) and m.phase == "transcribing")
                wait_for(inbox, lambda m: isinstance(m, events.PhaseChanged) and m.phase == "listening")
            voices = core.transcripts.latency.summary()
        finally:
            core.stop()
    seconds = [len(clip) / 2 / SAMPLE_RATE_HZ for clip in clips]
    return {
        "model_id": choice.model_id,
        "adapters": {name: str(folder) for name, folder in choice.adapters},
        "takes": takes,
        "clip_seconds": {"min": min(seconds), "max": max(seconds)},
        "silence_s": silence_s,
        "machine": {"system": platform.system(), "processor": processor_name(), "cores": os.cpu_count()},
        "load_average": os.getloadavg()[0],
        "callback_ms_p99": percentile([1000 * seconds for seconds in port.callback_s], 0.99),
        "voices": voices,
    }


def wait_for(inbox: "queue.SimpleQueue[events.Message]", wanted: object) -> events.Message:
    """Return the first message that `wanted` accepts.

    Raises:
        CheckFailed: an error came instead, or nothing in time.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            message = inbox.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty as error:
            raise CheckFailed(f"no answer for {TIMEOUT_S:.0f} s") from error
        if isinstance(message, events.ModelState) and message.stage == "failed":
            raise CheckFailed(message.detail)
        if isinstance(message, events.Notice) and message.severity == "error":
            raise CheckFailed(message.text)
        if isinstance(message, events.Broken):
            raise message.error
        if isinstance(message, events.Failed):
            raise CheckFailed(f"{message.voice}: {message.message}")
        if callable(wanted) and wanted(message):
            return message


def list_audio(given: Sequence[Path]) -> list[Path]:
    """Return audio files, folders searched.

    Raises:
        InputError: there are none, or one does not exist.
    """
    paths: list[Path] = []
    for path in given:
        paths += (
            sorted(item for item in path.rglob("*") if item.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        )
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        raise InputError(f"no such audio: {', '.join(missing) or ', '.join(map(str, given))}.")
    return paths


def pcm_at_16_khz(path: Path) -> bytes:
    """Return a file's samples as a microphone at 16 kHz would give them."""
    pcm, rate_hz = read_pcm(path)
    if rate_hz == SAMPLE_RATE_HZ:
        return pcm
    samples = soxr.resample(np.frombuffer(pcm, dtype="<i2").astype(np.float32), rate_hz, SAMPLE_RATE_HZ, quality="VHQ")
    return np.clip(np.round(samples), -32_768, 32_767).astype("<i2").tobytes()


def processor_name() -> str:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def as_table(document: JsonObject) -> str:
    """Return the figures as a Markdown table."""
    shortest, longest = document["clip_seconds"]["min"], document["clip_seconds"]["max"]
    lines = [
        f"{document['takes']} takes of {shortest:.1f} to {longest:.1f} s, "
        f"`{document['model_id']}`, {document['machine']['processor']}, {document['machine']['cores']} cores, "
        f"load average {document['load_average']:.1f}. "
        f"The recorder's callback took {document['callback_ms_p99']:.2f} ms at p99.",
        "",
        "| voice | first text p50 | p95 | final text p50 | p95 | real-time factor p50 | p95 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in document["voices"].items():
        cells = [_seconds(row[f"{kind}_{share}"]) for kind in ("first_s", "final_s") for share in ("p50", "p95")]
        cells += [f"{row[f'rtf_{share}']:.3f}" for share in ("p50", "p95")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"
