"""The model card (`README.md`) of an adapter: what it is, what it was measured to do, what it must not be used for."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora.decision import interval_points, percent, points
from lora.escape import printable, printable_lines
from lora.outputs import write_output
from lora.report.tables import escape, inline_code, number, table
from lora.units import JsonObject

CARD_FILE = "README.md"
TASK = "automatic-speech-recognition"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def write_model_card(adapter_dir: Path, metrics: JsonObject) -> Path:
    """Write the card in place of PEFT's empty template; nothing is looked up on the hub.

    Its header has base and tuned rates of every set as `model-index` metrics, in percent as model cards are.
    Paths of this machine are left out: the base model appears by its last name where it is a folder.

    Returns:
        The path of the card.
    """
    path = adapter_dir / CARD_FILE
    write_output(path, printable_lines(f"---\n{_header(metrics)}\n---\n\n{_body(metrics)}\n"), root=adapter_dir.parent)
    return path


def base_name(metrics: JsonObject) -> str:
    """Return the base model's hub id, or the last name of its folder."""
    model_id = str(metrics["base_model"]["id"])
    return model_id if _is_hub_id(model_id) or ":" in model_id else Path(model_id).name


def _is_hub_id(model_id: str) -> bool:
    return _HUB_ID.fullmatch(model_id) is not None and not Path(model_id).is_dir()


def _header(metrics: JsonObject) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=re.sub(r"[^\w.-]+", "-", str(compared["name"])),
            dataset_name=f"{compared['name']} ({role})",
            metric_type="wer",
            metric_name=f"WER in percent, {which}",
            metric_value=round(100 * compared[key], 2),
        )
        for role, compared in _sets(metrics)
        for key, which in (("baseline", "base model"), ("tuned", "with the adapter"))
        if compared[key] is not None
    ]
    base: dict[str, Any] = {"base_model": base_name(metrics)} if _is_hub_id(str(metrics["base_model"]["id"])) else {}
    data = ModelCardData(
        **base,
        library_name="peft",
        pipeline_tag=TASK,
        tags=["moonshine", "speech-to-text", str(metrics["adapter"]["method"]), metrics["base_model"]["family"]],
        model_name=str(metrics["run_id"]),
        eval_results=results,
    )
    return data.to_yaml().strip()


def _sets(metrics: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    yield "in domain", metrics["domain"]
    yield from (("guardrail", row) for row in metrics["guardrails"])


def _body(metrics: JsonObject) -> str:
    adapter, verdict = metrics["adapter"], metrics["verdict"]
    base = inline_code(base_name(metrics))
    reasons = "\n".join(f"- {escape(reason)}" for reason in verdict["reasons"])
    facts = [
        ["Method", f"{escape(adapter['method'])}, rank {number(adapter['rank'])}, alpha {number(adapter['alpha'])}"],
        ["Strength", number(adapter.get("strength", 1.0))],
        ["Trainable parameters", number(adapter["trainable_parameters"])],
        ["Training audio", f"{number(metrics['manifests']['train']['utterances'])} utterances, {_minutes(metrics)}"],
        ["Seed", number(metrics["seed"])],
        ["Base weights (SHA-256)", inline_code(metrics["base_model"]["sha256"])],
    ]
    return "\n\n".join(
        [
            f"# {escape(metrics['run_id'])}",
            f"A Moonshine LoRA adapter for speech-to-text on {base}. It changes how the base model hears or writes one "
            "domain; it is no model by itself.",
            f"## Verdict: {escape(verdict['decision'])}\n\n{reasons}",
            f"## Measured\n\n{_results(metrics)}",
            _normaliser_note(metrics),
            f"## Intended use\n\nSpeech like its training and domain sets, with {base} as the base and no other.",
            _limits(metrics),
            _loading(metrics),
            f"## Training\n\n{table(['Fact', 'Value'], facts, left=2)}",
        ]
    )


def _minutes(metrics: JsonObject) -> str:
    seconds = metrics["manifests"]["train"]["seconds"]
    return "length not recorded" if seconds is None else f"{seconds / 60:.1f} minutes"


def _results(metrics: JsonObject) -> str:
    rows = [
        [
            escape(compared["name"]),
            role,
            percent(compared["baseline"]),
            f"**{percent(compared['tuned'])}**",
            points(compared["delta"]),
            "n/a" if compared["ci95"] is None else interval_points(compared["ci95"]),
        ]
        for role, compared in _sets(metrics)
    ]
    return table(["Set", "Role", "Base WER", "Tuned WER", "Change (points)", "95% interval"], rows, left=2)


def _normaliser_note(metrics: JsonObject) -> str:
    raw = metrics["domain"]["text_styles"].get("raw")
    as_written = (
        ""
        if raw is None
        else (
            f" As written, with case and punctuation, the domain's WER went from {percent(raw['baseline'])} to "
            f"{percent(raw['tuned'])}."
        )
    )
    return (
        "WER is pooled word errors over reference words of text in the light style: case, punctuation and symbols are "
        "ignored, words and numbers are never rewritten. The change is tuned minus base with its interval by paired "
        f"bootstrap.{as_written} Domain CER: {percent(metrics['baseline_cer'])} to {percent(metrics['tuned_cer'])}."
    )


def _limits(metrics: JsonObject) -> str:
    limits = [
        "Speech that none of the sets above holds was not measured; it may be read worse than by the base model.",
        "An adapter learns the wording and style of its transcripts, mistakes and letter case included.",
        "Transcripts can be wrong without looking wrong. Do not act on them alone where a mistake harms someone.",
    ]
    few = [row["name"] for _, row in _sets(metrics) if row.get("unit") == "utterance"]
    if few:
        limits.append(
            f"Intervals of {escape(', '.join(map(str, few)))} resample utterances: they say nothing of other speakers."
        )
    if not metrics["guardrails"]:
        limits.append("No guardrail was given: harm to other speech was not measured.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in limits)


def _loading(metrics: JsonObject) -> str:
    kind = "Streaming" if metrics["base_model"]["family"] == "moonshine_streaming" else ""
    model_class = f"Moonshine{kind}ForConditionalGeneration"
    base = base_name(metrics)
    folder = base if _is_hub_id(base) else "path/to/base"
    quoted = shlex.quote(printable(base).replace("`", "'"))
    return (
        "## How to load\n\n"
        f"```bash\nmoonshine-lora transcribe talk.wav --model-id {quoted} --adapter-dir lora_adapter\n```\n\n"
        "This refuses another base (by hash) and applies the preprocessing and decode limits of "
        "`moonshine_lora.json`. Plain PEFT loads the same weights:\n\n"
        f"```python\nfrom peft import PeftModel\nfrom transformers import {model_class}\n\n"
        f'model = PeftModel.from_pretrained({model_class}.from_pretrained("{folder}"), "lora_adapter")\n```'
    )
