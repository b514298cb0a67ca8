"""Train the builtin digits base model from scratch (decision D8).

Data: digit strings of eSpeak NG's synthetic voices, and of the two US speakers of the Free Spoken Digit
Dataset (recordings 10 to 49 of its train part; 5 to 9 stay free for development sets, 0 to 4 for tests),
each digit at its own speed and level. No other accent is heard, so accents leave room for adaptation.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lora.config import PreprocessConfig
from lora.data.audio import prepare_wave, resample
from lora.data.batches import length_batches, pad_waves
from lora.data.sources.fsdd import DIGIT_WORDS, Recording, load_recordings
from lora.data.sources.synthetic import voices_of
from lora.data.synthesis import SpeechRequest, synthesize
from lora.data.transforms.tempo import speed
from lora.files import write_json
from lora.model.families import FAMILIES
from lora.model.load import Bundle, load_bundle
from lora.model.scratch import build_model, build_processor, save_checkpoint
from lora.model.text import build_token_batch
from lora.outputs import check_folder, inputs_of, output_folder
from lora.runners.builtin_options import BuiltinConfig
from lora.runners.progress import console, progress_bar
from lora.training.objective import aligned_objective
from lora.units import SAMPLE_RATE_HZ, Wave

KIND = "a base model"
US_SPEAKERS = ("jackson", "theo")
TRAIN_INDICES = range(10, 50)
SPEEDS = (0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2)
PREPROCESS = PreprocessConfig()


class DigitComposer:
    """Makes connected-digit utterances of one speaker from single recordings, varied without end."""

    def __init__(self, recordings: list[Recording], spread: int) -> None:
        self.spread = spread
        self.pieces: dict[str, list[tuple[int, list[Wave]]]] = {}
        for recording in recordings:
            wave = resample(recording.wave, recording.sampling_rate)
            versions = [speed(wave, factor) for factor in SPEEDS]
            self.pieces.setdefault(recording.speaker, []).append((recording.digit, versions))

    def compose(self, rng: np.random.Generator) -> tuple[Wave, str]:
        """Return one utterance of 1 to 8 digits at the project's level, and its text."""
        speakers = sorted(self.pieces)
        own = self.pieces[speakers[int(rng.integers(len(speakers)))]]
        middle = len(SPEEDS) // 2
        tempo = middle + int(rng.integers(-max(self.spread - 1, 0), max(self.spread - 1, 0) + 1))
        parts, words = [_pause(rng, 0.02, 0.4)], []
        for _ in range(int(rng.integers(1, 9))):
            digit, versions = own[int(rng.integers(len(own)))]
            wave = versions[tempo + int(rng.integers(-1, 2)) * min(self.spread, 1)]
            level = 10 ** (rng.uniform(-5, 5) / 20) / max(float(np.sqrt(np.mean(np.square(wave)))), 1e-4)
            parts += [(wave * (0.05 * level)).astype(np.float32), _pause(rng, 0.02, 0.4)]
            words.append(DIGIT_WORDS[digit])
        return _prepared(np.concatenate(parts)), " ".join(words)


def train_builtin(config: BuiltinConfig) -> Path:
    """Train the model and write model, processor and `recipe.json` to `config.output`.

    Raises:
        ConfigError, SetupError: as `output_folder`, before anything is read.
    """
    check_folder(config.output, inputs_of(config.fsdd, config.init_from), kind=KIND, overwrite=config.overwrite)
    composer = DigitComposer(load_recordings(config.fsdd, "train", US_SPEAKERS, TRAIN_INDICES), config.speed_spread)
    voices = voices_of("train", config.voices)
    console.print(f"speaking {config.synthetic_clips} synthetic clips in {len(voices)} voices")
    synthetic = _speak(config, voices)
    processor = build_processor(DIGIT_WORDS)
    model: Any = build_model(
        "moonshine",
        vocab_size=len(processor.tokenizer),
        width=config.width,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        heads=config.heads,
        seed=config.seed,
    )
    if config.init_from is not None:
        model = load_bundle(str(config.init_from), torch.device("cpu")).core
    with output_folder(config.output, kind=KIND, overwrite=config.overwrite) as stage:
        save_checkpoint(model, processor, stage)
        bundle = load_bundle(str(stage), torch.device("cpu"))
        core = bundle.core.train().requires_grad_(True)
        final_loss = _optimise(config, bundle, core, composer, synthetic)
        save_checkpoint(core.eval().half(), processor, stage)
        recipe = {
            key: value for key, value in vars(config).items() if key not in ("fsdd", "output", "overwrite", "init_from")
        }
        write_json(
            stage / "recipe.json",
            recipe
            | {
                "us_speakers": US_SPEAKERS,
                "indices": [10, 49],
                "speeds": SPEEDS,
                "final_loss": round(final_loss, 4),
                "parameters": sum(parameter.numel() for parameter in core.parameters()),
            },
        )
    return config.output


def _optimise(
    config: BuiltinConfig,
    bundle: Bundle,
    core: Any,
    composer: DigitComposer,
    synthetic: list[tuple[Wave, str]],
) -> float:
    decay = [parameter for parameter in core.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in core.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
    )
    family, running = FAMILIES["moonshine"], 0.0
    # The head of the auxiliary CTC loss: blank and ten digits. It lines the encoder up with the words long
    # before the decoder would (without it the loss stood at chance for the first 500 steps), and is not saved.
    head = torch.nn.Linear(config.width, 1 + len(DIGIT_WORDS))
    optimizer.add_param_group({"params": list(head.parameters()), "weight_decay": 0.0})
    with progress_bar("training", config.steps) as report:
        for step, examples in enumerate(_batches(config, composer, synthetic), start=1):
            scale = min(step / config.warmup_steps, 0.5 * (1 + math.cos(math.pi * step / config.steps)))
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * scale
            total = 0.0
            tokens = sum(len(text.split()) + 1 for _, text in examples)
            lengths = [len(wave) for wave, _ in examples]
            for rows in length_batches(lengths, batch_seconds=30):
                audio, num_samples = pad_waves([examples[row][0] for row in rows])
                ids = [bundle.tokenizer(examples[row][1], add_special_tokens=False).input_ids for row in rows]
                targets = build_token_batch(bundle, ids)
                encoded = family.encode(core, audio, num_samples)
                loss = aligned_objective(core, family, encoded, targets).sum() / tokens
                ctc = _ctc_loss(head(encoded.states), encoded.mask, [examples[row][1] for row in rows]) / tokens
                (loss + config.ctc_weight * ctc).backward()
                total += loss.item()
            torch.nn.utils.clip_grad_norm_(core.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            running = total if step == 1 else 0.98 * running + 0.02 * total
            report(1, f"training, loss {running:.3f}")
            if step % 100 == 0:
                console.print(f"step {step} loss {running:.4f}")
    return running


def _ctc_loss(logits: torch.Tensor, mask: torch.Tensor, texts: list[str]) -> torch.Tensor:
    """Return the summed CTC loss of digit words (Graves et al., 2006), float32 scalar."""
    targets = [[1 + DIGIT_WORDS.index(word) for word in text.split()] for text in texts]
    return torch.nn.functional.ctc_loss(
        torch.log_softmax(logits, dim=-1).transpose(0, 1),
        torch.tensor([digit for digits in targets for digit in digits]),
        mask.sum(dim=1),
        torch.tensor([len(digits) for digits in targets]),
        reduction="sum",
    )


def _batches(
    config: BuiltinConfig, composer: DigitComposer, synthetic: list[tuple[Wave, str]]
) -> Iterator[list[tuple[Wave, str]]]:
    real = round(config.batch_utterances * config.fsdd_share)
    for step in range(config.steps):
        rng = np.random.default_rng([config.seed, step])
        examples = [composer.compose(rng) for _ in range(real)]
        for index in rng.integers(len(synthetic), size=config.batch_utterances - real):
            wave, text = synthetic[int(index)]
            examples.append((_prepared(speed(wave, float(rng.choice(SPEEDS[2:7])))), text))
        yield examples


def _speak(config: BuiltinConfig, voices: Sequence[str]) -> list[tuple[Wave, str]]:
    rng = np.random.default_rng([config.seed, 1])
    requests = [
        SpeechRequest(
            text=" ".join(DIGIT_WORDS[digit] for digit in rng.integers(10, size=int(rng.integers(1, 9)))),
            voice=voices[number % len(voices)],
            rate_wpm=int(rng.integers(120, 240)),
            pitch=int(rng.integers(25, 76)),
        )
        for number in range(config.synthetic_clips)
    ]
    return [(wave, request.text) for wave, request in zip(synthesize(requests), requests, strict=True)]


def _pause(rng: np.random.Generator, low: float, high: float) -> Wave:
    count = round(float(rng.uniform(low, high)) * SAMPLE_RATE_HZ)
    return (10 ** rng.uniform(-5, -3.5) * rng.standard_normal(count)).astype(np.float32)


def _prepared(wave: Wave) -> Wave:
    return prepare_wave(wave, SAMPLE_RATE_HZ, PREPROCESS, name="training clip")
