"""A run with the shipped defaults does what the recipe says: every recorded number, computed plainly once more.

The plain recipe shares with the project what reads audio, loads models and runs their encoder exactly under padding,
and nothing of `training/`, `runners/`, `evaluation/` or `decision`: one utterance at a time where order does not
matter, no cache, PEFT's and PyTorch's own classes.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional as F

from lora.config import ExperimentConfig, PreprocessConfig
from lora.data.batches import epoch_batches
from lora.data.manifest import read_manifest
from lora.model.adapters import target_pattern
from lora.model.load import Bundle, load_bundle
from lora.runners.experiment import run_experiment
from lora.units import Wave

RATE = 16_000


@dataclass(frozen=True)
class Clip:
    wave: Wave
    text: str
    tokens: list[int]


class PlainRecipe:
    """One run: `history`, `strengths` and `tuned` have what a run records."""

    def __init__(self, model_id: Path, sets: dict[str, Path], method: str, options: dict[str, Any]) -> None:
        self.bundle: Bundle = load_bundle(str(model_id), torch.device("cpu"))
        self.core: Any = self.bundle.core
        self.options = options
        self.sets = {name: self.read(path) for name, path in sets.items()}
        self.history: list[dict[str, Any]] = []
        self.strengths: list[dict[str, Any]] = []
        reported = ("domain", "guardrail")
        self.baseline = {name: self.score(self.sets[name]) for name in reported}
        self.before = {name: self.score(self.sets[name]) for name in ("dev", "guard_dev")}
        self.teacher = [self.logits([clip], train=False).log_softmax(-1) for clip in self.sets["replay"]]
        torch.manual_seed(options["seed"])
        self.module = get_peft_model(
            self.core,
            LoraConfig(
                r=options["rank"],
                lora_alpha=options["alpha"],
                lora_dropout=options["dropout"],
                target_modules=target_pattern("all-linear", num_encoder_layers=len(self.core.model.encoder.layers)),
                use_dora=method == "dora",
            ),
        )
        self.weights = {name: weight for name, weight in self.module.named_parameters() if weight.requires_grad}
        best = self.train()
        self.choose_strength(best)
        self.tuned = {name: self.score(self.sets[name]) for name in reported}

    def read(self, path: Path) -> list[Clip]:
        tokenizer = self.bundle.tokenizer
        rows = read_manifest(path).utterances
        return [
            Clip(row.load(PreprocessConfig()), row.text, tokenizer(row.text, add_special_tokens=False).input_ids)
            for row in rows
        ]

    def encode(self, clips: Sequence[Clip]) -> Any:
        longest = max(len(clip.wave) for clip in clips)
        audio = torch.stack([F.pad(torch.from_numpy(clip.wave), (0, longest - len(clip.wave))) for clip in clips])
        return self.bundle.family.encode(self.core, audio, torch.tensor([len(clip.wave) for clip in clips]))

    def decode(self, encoded: Any, tokens: Tensor) -> Tensor:
        hidden = self.core.model.decoder(
            input_ids=tokens,
            encoder_hidden_states=self.bundle.family.decoder_memory(encoded),
            encoder_attention_mask=encoded.mask,
            use_cache=False,
        ).last_hidden_state
        logits: Tensor = self.core.proj_out(hidden).float()
        return logits

    def logits(self, clips: Sequence[Clip], *, train: bool) -> Tensor:
        """Return the scores at each position that has a label, one utterance after the other."""
        longest = max(len(clip.tokens) for clip in clips) + 1
        given = torch.full((len(clips), longest), self.bundle.end_id)
        for row, clip in enumerate(clips):
            given[row, : len(clip.tokens) + 1] = torch.tensor([self.bundle.start_id, *clip.tokens])
        with torch.set_grad_enabled(train):
            scores = self.decode(self.encode(clips), given)
        return torch.cat([scores[row, : len(clip.tokens) + 1] for row, clip in enumerate(clips)])

    def labels(self, clips: Sequence[Clip]) -> Tensor:
        return torch.tensor([token for clip in clips for token in (*clip.tokens, self.bundle.end_id)])

    def transcribe(self, clip: Clip) -> tuple[str, bool]:
        """Decode greedily, the whole prefix anew for each token."""
        limit = min(max(math.ceil(len(clip.wave) / RATE * 6.5), 4), self.bundle.max_tokens - 1)
        with torch.no_grad():
            encoded, tokens = self.encode([clip]), [self.bundle.start_id]
            while len(tokens) <= limit + 1:
                tokens.append(int(self.decode(encoded, torch.tensor([tokens]))[0, -1].argmax()))
                if tokens[-1] == self.bundle.end_id:
                    return self.bundle.tokenizer.decode(tokens[1:-1], skip_special_tokens=True).strip(), True
        return self.bundle.tokenizer.decode(tokens[1 : limit + 1], skip_special_tokens=True).strip(), False

    def score(self, clips: Sequence[Clip]) -> dict[str, float]:
        self.core.eval()
        texts = [self.transcribe(clip) for clip in clips]
        errors = sum(distance(clip.text.split(), text.split()) for clip, (text, _) in zip(clips, texts, strict=True))
        losses = [
            F.cross_entropy(self.logits([clip], train=False), self.labels([clip]), reduction="sum") for clip in clips
        ]
        return {
            "wer": errors / sum(len(clip.text.split()) for clip in clips),
            "loss": float(sum(losses)) / len(self.labels(clips)),
            "empty": sum(not text for text, _ in texts),
            "unfinished": sum(not ended for _, ended in texts),
        }

    def batches(self, name: str, seconds: float, seed: int) -> Iterator[list[int]]:
        lengths, epoch = [len(clip.wave) for clip in self.sets[name]], 0
        while True:
            yield from epoch_batches(lengths, batch_seconds=seconds, seed=seed, epoch=epoch)
            epoch += 1

    def train(self) -> dict[str, Tensor]:
        """Take the steps; return the best averaged weights."""
        options = self.options
        optimizer = torch.optim.AdamW(self.weights.values(), weight_decay=options["weight_decay"])
        ratio, seconds, last = options["replay_ratio"], options["batch_seconds"], options["max_steps"]
        domain = self.batches("train", seconds * (1 - ratio), options["seed"])
        replay = self.batches("replay", seconds * ratio, options["seed"] + 1)
        average = {name: weight.detach().clone() for name, weight in self.weights.items()}
        best, best_score = dict(average), self.judge("step 0", 0)
        warmup = max(round(options["warmup_ratio"] * last), 1)
        for step in range(1, last + 1):
            self.core.train()
            decay = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (last - warmup + 1)))
            rate = options["learning_rate"] * (step / warmup if step <= warmup else decay)
            for group in optimizer.param_groups:
                group["lr"] = rate
            heard = [self.sets["train"][index] for index in next(domain)]
            indices = next(replay)
            rehearsed = [self.sets["replay"][index] for index in indices]
            total = len(self.labels(heard)) + len(self.labels(rehearsed))
            own = F.cross_entropy(self.logits(heard, train=True), self.labels(heard), reduction="sum")
            (own / total).backward()
            kept = self.rehearse(rehearsed, torch.cat([self.teacher[index] for index in indices]))
            (kept / total).backward()
            own, kept = own.detach(), kept.detach()
            norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), options["max_grad_norm"])
            optimizer.step()
            optimizer.zero_grad()
            part = min(options["average_decay"], (1 + step) / (10 + step))
            with torch.no_grad():
                for name, weight in self.weights.items():
                    average[name] = part * average[name] + (1 - part) * weight
            self.history.append(
                {
                    "step": step,
                    "loss": float(own + kept) / total,
                    "domain_loss": float(own) / len(self.labels(heard)),
                    "replay_loss": float(kept) / len(self.labels(rehearsed)),
                    "learning_rate": rate,
                    "grad_norm": float(norm),
                    "audio_seconds": sum(len(clip.wave) for clip in heard + rehearsed) / RATE,
                }
            )
            if step % options["eval_interval"] and step != last:
                continue
            training = {name: weight.detach().clone() for name, weight in self.weights.items()}
            self.put(average)
            score = self.judge(f"step {step}", step)
            if score < best_score:
                best, best_score = dict(average), score
            self.put(training)
        return best

    def rehearse(self, clips: Sequence[Clip], teacher: Tensor) -> Tensor:
        """Return 0.3 cross-entropy + 0.7 KL to the base model; its tokens beyond 64 are one."""
        logits, weight = self.logits(clips, train=True), self.options["distillation_weight"]
        entropy = F.cross_entropy(logits, self.labels(clips), reduction="sum")
        likeliest = teacher.topk(min(64, teacher.shape[-1]), dim=-1)
        wanted = likeliest.values
        found = logits.log_softmax(-1).gather(1, likeliest.indices)
        divergence = (wanted.exp() * (wanted - found)).sum()
        if teacher.shape[-1] > 64:
            left, here = 1 - wanted.exp().sum(-1), 1 - found.exp().sum(-1)
            divergence = divergence + (left * (left.log() - here.log())).sum()
        return (1 - weight) * entropy + weight * divergence

    @torch.no_grad()
    def put(self, values: dict[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(values[name])

    def judge(self, label: str, step: int) -> tuple[float, float]:
        """Score the development sets; less is better."""
        # A fresh adapter changes nothing.
        now = self.before if step == 0 else {name: self.score(self.sets[name]) for name in ("dev", "guard_dev")}
        dev, guard = now["dev"], now["guard_dev"]
        row = {"validation_wer": dev["wer"], "validation_loss": dev["loss"], "guardrail_wer": guard["wer"]}
        if label.startswith("step"):
            row |= {"empty": dev["empty"], "unfinished": dev["unfinished"]}
            self.history.append({"step": step, "eval": row})
        over = guard["wer"] - self.before["guard_dev"]["wer"] - self.options["selection_budget"]
        return dev["wer"] + 10 * max(over, 0), dev["loss"]

    def choose_strength(self, best: dict[str, Tensor]) -> None:
        """Set the smallest strength that keeps 95% of the largest gain on the development sets."""
        gains = []
        for strength in self.options["strengths"]:
            self.put(self.scaled(best, strength))
            score = self.judge("strength", -1)[0]
            now = {name: self.score(self.sets[name])["wer"] for name in ("dev", "guard_dev")}
            self.strengths.append({"scale": strength, "domain_wer": now["dev"], "guardrail_wer": now["guard_dev"]})
            gains.append(self.before["dev"]["wer"] - score)
        enough = 0.95 * max(gains)
        good = [value for value, gain in zip(self.options["strengths"], gains, strict=True) if gain >= enough]
        self.strength = min(good) if max(gains) > 0 else self.options["strengths"][gains.index(max(gains))]
        self.put(self.scaled(best, self.strength))

    def scaled(self, values: dict[str, Tensor], strength: float) -> dict[str, Tensor]:
        """Return weights whose change of the base is `strength` of theirs: B for LoRA, for DoRA the magnitudes too."""
        found = {name: value * strength if ".lora_B." in name else value for name, value in values.items()}
        for name in found:
            if "lora_magnitude_vector" in name:
                layer = self.module.get_submodule(name.partition(".lora_magnitude_vector")[0])
                norms = layer.base_layer.weight.norm(dim=1)
                found[name] = norms + strength * (values[name] - norms)
        return found


def distance(wanted: Sequence[str], found: Sequence[str]) -> int:
    """Return the fewest insertions, deletions and substitutions of words."""
    row = list(range(len(found) + 1))
    for number, word in enumerate(wanted, start=1):
        above, row = row, [number]
        for place, other in enumerate(found, start=1):
            row.append(min(above[place] + 1, row[-1] + 1, above[place - 1] + (word != other)))
    return row[-1]


SIZES = {"max_steps": 9, "eval_interval": 3, "batch_seconds": 8.0, "learning_rate": 8e-3, "device": "cpu"}
"""What is smaller or larger than shipped, for the test's time; everything else is what ships."""
COUNTS = {"train": 20, "replay": 14, "domain": 8, "guardrail": 8, "dev": 8, "guard_dev": 8}


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("moonshine", "lora"),
        pytest.param("moonshine", "dora", marks=pytest.mark.slow),
        pytest.param("moonshine_streaming", "lora", marks=pytest.mark.slow),
        pytest.param("moonshine_streaming", "dora", marks=pytest.mark.slow),
    ],
)
def test_every_recorded_number_is_that_of_the_plain_recipe(
    family: str,
    method: Any,
    request: pytest.FixtureRequest,
    write_toy_manifest: Callable[..., Path],
    tmp_path: Path,
) -> None:
    toy = {"moonshine": "toy_checkpoint", "moonshine_streaming": "streaming_toy_checkpoint"}
    model = request.getfixturevalue(toy[family])
    sets = {
        name: write_toy_manifest(tmp_path / f"{name}.jsonl", count=count, seed=seed)
        for seed, (name, count) in enumerate(COUNTS.items(), start=70)
    }
    config = ExperimentConfig(
        output_dir=tmp_path / "run",
        model_id=str(model),
        dataset_path=sets["train"],
        replay_manifest=sets["replay"],
        manifest_path=sets["domain"],
        guardrail_manifest=[sets["guardrail"]],
        validation_manifest=sets["dev"],
        guardrail_validation_manifest=sets["guard_dev"],
        method=method,
        **SIZES,  # type: ignore[arg-type]
    )
    metrics = run_experiment(config)
    plain = PlainRecipe(model, sets, method, {field.name: getattr(config, field.name) for field in fields(config)})
    history = [json.loads(line) for line in (config.output_dir / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == [row["step"] for row in plain.history]
    for found, wanted in zip(history, plain.history, strict=True):
        assert flat(found) == pytest.approx(flat(wanted), rel=1e-4, abs=1e-5)
    for found, wanted in zip(metrics["strength"], plain.strengths, strict=True):
        assert found == pytest.approx(wanted, abs=1e-5)
    assert metrics["adapter"]["strength"] == plain.strength
    for when, scores in (("baseline", plain.baseline), ("tuned", plain.tuned)):
        for found, name in ((metrics["domain"], "domain"), (metrics["guardrails"][0], "guardrail")):
            assert found[when] == pytest.approx(scores[name]["wer"], abs=1e-5)
            assert found[f"{when}_loss"] == pytest.approx(scores[name]["loss"], abs=1e-5)


def flat(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key != "eval"} | row.get("eval", {})
