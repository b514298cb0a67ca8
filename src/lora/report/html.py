"""`report.html` of one run: one file that opens offline, with a table of utterances and players.

Nothing is fetched: style, script, data and audio are in the file, and its content policy forbids the rest.
"""

import json
import re
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from lora.escape import printable_lines
from lora.evaluation.wer import align_words, normalize_text
from lora.outputs import write_output
from lora.report.clips import MAX_AUDIO_BYTES, MAX_PLAYERS, Clips, collect_clips
from lora.report.html_sections import (
    gains_section,
    provenance_section,
    result_section,
    training_section,
    verdict_section,
)
from lora.report.record import RunRecord, Sample, load_record
from lora.units import JsonObject

HTML_FILE = "report.html"
_OPERATIONS = {"equal": "=", "substitute": "s", "delete": "d", "insert": "i"}


def write_html_report(run_dir: Path) -> Path:
    """Write `report.html` into the directory of a finished run.

    The same record and the same audio give the same bytes. Audio is found through the run's manifests; where
    they are gone or changed the page says so and has no players.

    Returns:
        The path of the report.

    Raises:
        InputError: the record is incomplete or contradicts itself (see `load_record`).
        ConfigError, SetupError: as `lora.outputs.check_file`, of a report that was changed since.
    """
    record = load_record(run_dir)
    clips = collect_clips(record)
    parts = {
        "title": escape(f"{record.metrics['run_id']}: {record.metrics['verdict']['decision']}"),
        "run": escape(str(record.metrics["run_id"])),
        "base": escape(str(record.metrics["base_model"]["id"])),
        "style": _asset("page.css"),
        "script": _asset("page.js"),
        "verdict": verdict_section(record),
        "result": result_section(record),
        "training": training_section(record),
        "gains": gains_section(record),
        "provenance": provenance_section(record.metrics),
        "audio": _audio_note(record, clips),
        "data": script_json(_payload(record, clips)),
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("page.html"))
    path = run_dir / HTML_FILE
    write_output(path, printable_lines(page), root=run_dir)
    return path


def script_json(value: Any) -> str:
    """Return JSON that cannot end the script element it stands in, whatever a transcript says.

    Control characters in it are escaped as a reader will see them: the page puts these texts on the screen.
    """
    text = json.dumps(_shown(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return printable_lines(value)
    if isinstance(value, dict):
        return {_shown(key): _shown(item) for key, item in value.items()}
    return [_shown(item) for item in value] if isinstance(value, list | tuple) else value


def _asset(name: str) -> str:
    return files("lora.report").joinpath("page", name).read_text(encoding="utf-8")


def _payload(record: RunRecord, clips: Clips) -> JsonObject:
    return {
        "sets": {name: str(compared["name"]) for name, compared in record.sets},
        "rows": [_row(sample) for sample in record.samples],
        "audio": {
            str(index): clips.data[sample.set, sample.id]
            for index, sample in enumerate(record.samples)
            if (sample.set, sample.id) in clips.data
        },
    }


def _row(sample: Sample) -> JsonObject:
    reference = normalize_text(sample.reference, "light")
    texts = {"reference": sample.reference, "baseline": sample.baseline, "tuned": sample.tuned}
    diffs = [
        [
            [_OPERATIONS[operation], ref, hyp]
            for operation, ref, hyp in align_words(reference, normalize_text(text, "light"))
        ]
        for text in (sample.baseline, sample.tuned)
    ]
    return {
        "id": sample.id,
        "set": sample.set,
        "speaker": None if sample.speaker_id is None else str(sample.speaker_id),
        "seconds": round(sample.seconds, 2),
        "words": sample.words,
        "before": sample.baseline_errors,
        "after": sample.tuned_errors,
        "texts": texts,
        "changed": diffs[0] != diffs[1],
        "diffs": diffs,
    }


def _audio_note(record: RunRecord, clips: Clips) -> str:
    total = len(record.samples)
    size = clips.audio_bytes / 2**20
    held = (
        f"{len(clips.data)} of {total} utterances have a player, the most changed ones first ({size:.1f} MB of FLAC; "
        f"at most {MAX_PLAYERS} utterances and {MAX_AUDIO_BYTES / 2**20:.0f} MB), at the level that the model hears."
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in clips.notes[:20])
    more = f"<li>and {len(clips.notes) - 20} more</li>" if len(clips.notes) > 20 else ""
    return f'<p class="note" id="audio-note">{held}</p>' + (
        f'<ul class="note" id="audio-missing">{notes}{more}</ul>' if notes else ""
    )
