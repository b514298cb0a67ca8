"""The loop: repeatable, exact under accumulation, and it stops where it must."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from lora.config import DecodeSettings, ExperimentConfig, PreprocessConfig, TargetPreset
from lora.data.sources.base import Clip
from lora.data.waves import BATCHES_AHEAD, LazyWave
from lora.decoding import Recognizer
from lora.errors import AudioError, CheckFailed
from lora.model.adapters import AdapterConfig, trainable_state
from lora.model.families import EncoderStates
from lora.model.feature_cache import EncoderCache
from lora.model.load import Bundle, load_bundle
from lora.model.methods import start_adaptation
from lora.model.text import build_token_batch, encode_text
from lora.training.batching import Augment
from lora.training.examples import Example
from lora.training.loop import Evaluation, Trainer, TrainingConfig, TrainingData, TrainingResult
from lora.training.objective import Objective, aligned_objective
from lora.units import JsonObject, Wave

DEFAULTS = ExperimentConfig(
    output_dir=Path("out"), dataset_path=Path("a"), manifest_path=Path("b"), guardrail_manifest=[Path("c")]
)
CONFIG = TrainingConfig(**{name: getattr(DEFAULTS, name) for name in TrainingConfig.__dataclass_fields__})
CONFIG = replace(CONFIG, replay_ratio=0.5)
CONFIG = replace(CONFIG, max_steps=4, learning_rate=3e-3, batch_seconds=4.0, eval_interval=2, seed=1)
ADAPTER = AdapterConfig("lora", rank=4, alpha=8.0, dropout=0.1, targets="all-linear")


@pytest.fixture
def clips(make_clip: Callable[..., Clip]) -> list[Clip]:
    return [make_clip(number, seed=3) for number in range(16)]


def examples_of(bundle: Bundle, clips: Sequence[Clip]) -> list[Example]:
    return [
        Example(clip.id, clip.wave, tuple(encode_text(bundle, clip.text, place=clip.id)), clip.text, clip.speaker_id)
        for clip in clips
    ]


def build_trainer(
    bundle: Bundle,
    config: TrainingConfig = CONFIG,
    *,
    objective: Objective = aligned_objective,
    adapter: AdapterConfig = ADAPTER,
    cache: EncoderCache | None = None,
    augment: Augment | None = None,
) -> Trainer:
    torch.manual_seed(config.seed)
    adaptation = start_adaptation(bundle, adapter, seed=config.seed)
    return Trainer(adaptation, objective, config, Accelerator(cpu=True), cache, augment)


@pytest.fixture
def open_cache(tmp_path: Path) -> Iterator[Callable[..., EncoderCache]]:
    """Return a function that opens one cache folder for a bundle, with a cut after the last layer unless given."""
    opened: list[EncoderCache] = []

    def open_one(bundle: Bundle, cut: int | None = None) -> EncoderCache:
        cut = len(bundle.core.model.encoder.layers) if cut is None else cut
        encode = Recognizer(bundle, PreprocessConfig(), DecodeSettings()).encode
        options = {"cut": cut, "preprocess": PreprocessConfig(), "state_format": "fp32", "limit_bytes": 2**30}
        opened.append(EncoderCache(bundle, encode, tmp_path / "features", **options))
        return opened[-1]

    yield open_one
    for cache in opened:
        cache.close()


def scripted(wers: Sequence[float], **options: Any) -> Callable[[int], Evaluation]:
    """Evaluations with these development WERs, one after another."""
    rest = iter(wers)

    def evaluate(step: int) -> Evaluation:
        wer = next(rest)
        return Evaluation((wer,), wer, {"validation_wer": wer}, **options)

    return evaluate


def train(
    trainer: Trainer, data: TrainingData, wers: Sequence[float] = (0.5, 0.4, 0.3)
) -> tuple[TrainingResult, list[JsonObject]]:
    rows: list[JsonObject] = []
    return trainer.train(data, scripted(wers), rows.append), rows


@torch.inference_mode()
def loss_of(bundle: Bundle, examples: list[Example]) -> float:
    """Return the summed loss of all examples on the model as it is, without dropout."""
    encoded = Recognizer(bundle, PreprocessConfig(), DecodeSettings()).encode([example.wave for example in examples])
    targets = build_token_batch(bundle, [example.token_ids for example in examples])
    bundle.core.eval()
    return float(aligned_objective(bundle.core, bundle.family, encoded, targets).sum())


def test_a_few_steps_lower_the_loss_and_fill_the_history(toy_checkpoint: Path, clips: list[Clip]) -> None:
    bundle = load_bundle(str(toy_checkpoint), torch.device("cpu"))
    examples = examples_of(bundle, clips)
    config = replace(CONFIG, max_steps=12, eval_interval=12, learning_rate=1e-2)
    trainer = build_trainer(bundle, config)
    before = loss_of(bundle, examples)
    result, rows = train(trainer, TrainingData(examples[:10], examples[10:]))
    assert loss_of(bundle, examples) < 0.9 * before
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 13))
    assert result.audio_seconds == pytest.approx(sum(row["audio_seconds"] for row in steps))
    assert all(min(row["domain_loss"], row["replay_loss"]) <= row["loss"] for row in steps)
    assert all(row["loss"] <= max(row["domain_loss"], row["replay_loss"]) for row in steps)
    assert [row["step"] for row in rows if "eval" in row] == [0, 12]
    assert (result.stopped_by, result.best_step) == ("max_steps", 12)


def test_the_same_seed_gives_the_same_weights_to_the_bit(
    family_name: str, checkpoints: dict[str, Path], clips: list[Clip]
) -> None:
    states = []
    for seed in (1, 1, 2):
        bundle = load_bundle(str(checkpoints[family_name]), torch.device("cpu"))
        trainer = build_trainer(bundle, replace(CONFIG, seed=seed, max_steps=3, eval_interval=3))
        examples = examples_of(bundle, clips)
        train(trainer, TrainingData(examples[:8], examples[8:]), (0.5, 0.4))
        states.append(trainable_state(trainer.model))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not all(torch.equal(value, states[2][name]) for name, value in states[0].items())


def test_the_best_evaluated_state_is_put_back(toy_bundle: Bundle, clips: list[Clip]) -> None:
    trainer = build_trainer(toy_bundle, replace(CONFIG, max_steps=6, eval_interval=2))
    seen: dict[int, dict[str, Tensor]] = {}
    wers = {0: 0.5, 2: 0.5, 4: 0.2, 6: 0.3}

    def evaluate(step: int) -> Evaluation:
        seen[step] = trainable_state(trainer.model)
        return Evaluation((wers[step],), wers[step], {})

    result = trainer.train(TrainingData(examples_of(toy_bundle, clips), []), evaluate, lambda row: None)
    assert list(seen) == [0, 2, 4, 6]
    assert result.best_step == 4
    now = trainable_state(trainer.model)
    assert all(torch.equal(now[name], value) for name, value in seen[4].items())
    assert not all(torch.equal(now[name], value) for name, value in seen[6].items())


def test_without_any_improvement_the_adapter_stays_the_fresh_one(toy_bundle: Bundle, clips: list[Clip]) -> None:
    trainer = build_trainer(toy_bundle)
    fresh = trainable_state(trainer.model)
    result, _ = train(trainer, TrainingData(examples_of(toy_bundle, clips), []), (0.5, 0.5, 0.6))
    assert result.best_step == 0
    assert all(torch.equal(value, fresh[name]) for name, value in trainable_state(trainer.model).items())


def test_training_stops_when_the_wer_exceeds_the_multiple_of_the_baselines(
    toy_bundle: Bundle, clips: list[Clip]
) -> None:
    config = replace(CONFIG, max_steps=8, eval_interval=2, wer_stop_threshold=1.5)
    data = TrainingData(examples_of(toy_bundle, clips), [])
    result, _ = train(build_trainer(toy_bundle, config), data, (0.4, 0.6, 0.61))
    assert (result.steps, result.stopped_by) == (4, "wer_stop_threshold")


def test_a_tripped_evaluation_stops_training_with_its_reason(toy_bundle: Bundle, clips: list[Clip]) -> None:
    trainer = build_trainer(toy_bundle)
    evaluate = scripted((0.4, 0.4), tripped="loops")
    result = trainer.train(TrainingData(examples_of(toy_bundle, clips), []), evaluate, lambda row: None)
    assert (result.steps, result.stopped_by) == (2, "loops")


def test_a_loss_that_is_not_finite_stops_with_the_utterances_ids(toy_bundle: Bundle, clips: list[Clip]) -> None:
    def sometimes_nan(core: Any, family: Any, encoded: EncoderStates, targets: Any) -> Tensor:
        losses = aligned_objective(core, family, encoded, targets)
        # Four words and the end: five labels.
        return torch.where((targets.labels >= 0).sum(dim=1) == 5, math.nan, losses)

    trainer = build_trainer(toy_bundle, objective=sometimes_nan)
    long = {clip.id for clip in clips if len(clip.text.split()) == 4}
    with pytest.raises(CheckFailed, match="loss of these utterances is not finite") as caught:
        train(trainer, TrainingData(examples_of(toy_bundle, clips), []))
    assert caught.value.problems
    assert set(caught.value.problems) <= long


def steep(core: Any, family: Any, encoded: EncoderStates, targets: Any) -> Tensor:
    """The right loss with an infinite slope: that of a square root at zero."""
    losses = aligned_objective(core, family, encoded, targets)
    return losses + torch.sqrt(losses - losses.detach())


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(toy_bundle: Bundle, clips: list[Clip]) -> None:
    trainer = build_trainer(toy_bundle, objective=steep)
    fresh = trainable_state(trainer.model)
    examples = examples_of(toy_bundle, clips)
    with pytest.raises(CheckFailed, match="step 1: the gradient is not finite") as caught:
        train(trainer, TrainingData(examples, []))
    assert set(caught.value.problems) <= {example.id for example in examples}
    assert all(torch.equal(value, fresh[name]) for name, value in trainable_state(trainer.model).items())


def test_fp16_skips_steps_whose_gradient_overflows_and_gives_up_when_none_succeeds(
    toy_bundle: Bundle, clips: list[Clip]
) -> None:
    """A loss scale that is too high overflows at first; the scaler then skips the step and halves the scale."""
    trainer = build_trainer(toy_bundle, replace(CONFIG, max_steps=40, eval_interval=40), objective=steep)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
    trainer.optimizer.step = lambda: None
    rows: list[JsonObject] = []
    with pytest.raises(CheckFailed, match="step 11: the gradient is not finite"):
        trainer.train(TrainingData(examples_of(toy_bundle, clips), []), scripted((0.5,)), rows.append)
    assert [row["grad_norm"] for row in rows if "loss" in row] == [None] * 10


def gradients(bundle: Bundle, clips: list[Clip], parts: int) -> dict[str, Tensor]:
    """Return the gradients of the first step, computed in `parts`."""
    config = replace(CONFIG, gradient_accumulation=parts, batch_seconds=100.0, max_grad_norm=1e6)
    trainer = build_trainer(bundle, config, adapter=replace(ADAPTER, dropout=0.0))
    kept: dict[str, Tensor] = {}

    def keep(*args: object) -> None:
        kept.update(
            {
                name: parameter.grad.clone()
                for name, parameter in trainer.model.named_parameters()
                if parameter.grad is not None
            }
        )
        raise KeyboardInterrupt  # one step is enough

    trainer.optimizer.step = keep
    examples = examples_of(bundle, clips)
    with pytest.raises(KeyboardInterrupt):
        train(trainer, TrainingData(examples[:9], examples[9:]))
    return kept


def test_accumulated_gradients_equal_those_of_one_batch(toy_checkpoint: Path, clips: list[Clip]) -> None:
    whole, parts = (gradients(load_bundle(str(toy_checkpoint), torch.device("cpu")), clips, count) for count in (1, 4))
    assert whole.keys() == parts.keys()
    assert max(float(value.abs().max()) for value in whole.values()) > 1e-3
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("targets", ["decoder", "decoder-attention"])
def test_training_on_cached_states_gives_the_same_losses(
    family_name: str,
    checkpoints: dict[str, Path],
    clips: list[Clip],
    targets: TargetPreset,
    open_cache: Callable[[Bundle], EncoderCache],
) -> None:
    losses = []
    for cached in (False, True):
        bundle = load_bundle(str(checkpoints[family_name]), torch.device("cpu"))
        adapter = replace(ADAPTER, targets=targets, dropout=0.0)
        trainer = build_trainer(bundle, adapter=adapter, cache=open_cache(bundle) if cached else None)
        _, rows = train(trainer, TrainingData(examples_of(bundle, clips), []))
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_the_upper_layers_on_states_of_the_lower_ones_gives_the_same_losses_and_weights(
    family_name: str,
    deep_checkpoints: dict[str, Path],
    clips: list[Clip],
    open_cache: Callable[..., EncoderCache],
    checkpointing: bool,
) -> None:
    losses, states = [], []
    for cached in (False, True):
        bundle = load_bundle(str(deep_checkpoints[family_name]), torch.device("cpu"))
        config = replace(CONFIG, max_steps=3, eval_interval=3, gradient_checkpointing=checkpointing and cached)
        adapter = replace(ADAPTER, targets="upper", dropout=0.0)
        trainer = build_trainer(bundle, config, adapter=adapter, cache=open_cache(bundle, 2) if cached else None)
        before = trainable_state(trainer.model)
        _, rows = train(trainer, TrainingData(examples_of(bundle, clips), []), (0.5, 0.4))
        losses.append([row["loss"] for row in rows if "loss" in row])
        states.append(trainable_state(trainer.model))
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    moved = [name for name, value in states[1].items() if ".encoder." in name and not torch.equal(value, before[name])]
    assert {int(name.split("encoder.layers.")[1].split(".")[0]) for name in moved} == {2, 3}
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-4)


def test_a_checkpoints_dropout_is_off_below_the_cut_and_on_above_it(
    deep_bundle: Bundle, clips: list[Clip], open_cache: Callable[..., EncoderCache]
) -> None:
    layers, cache = deep_bundle.core.model.encoder.layers, open_cache(deep_bundle, 2)
    for layer in layers:
        layer.self_attn.attention_dropout = 0.5
    examples, trainings = examples_of(deep_bundle, clips[:4]), []

    def objective(core: Any, *arguments: Any) -> Tensor:
        trainings.append([layer.training for layer in layers])
        return aligned_objective(core, *arguments)

    trainer = build_trainer(deep_bundle, objective=objective, adapter=replace(ADAPTER, targets="upper"), cache=cache)
    trainer.step(1, examples, [])
    assert trainings == [[False, False, True, True]]
    kept = cache.encode([example.audio_sha256 for example in examples], lambda row: examples[row].wave)
    deep_bundle.core.eval()
    direct = Recognizer(deep_bundle, PreprocessConfig(), DecodeSettings()).encode([row.wave for row in examples], 2)
    torch.testing.assert_close(kept.states[kept.mask], direct.states[direct.mask], rtol=0, atol=1e-5)


def test_a_domain_and_a_replay_clip_of_the_same_id_keep_their_own_states(
    toy_bundle: Bundle,
    clips: list[Clip],
    make_wave: Callable[[int, int], Wave],
    open_cache: Callable[[Bundle], EncoderCache],
) -> None:
    """Ids are unique within a manifest only; the cache must not hand one clip the other's states."""
    trainer = build_trainer(toy_bundle, adapter=replace(ADAPTER, targets="decoder"), cache=open_cache(toy_bundle))
    [example] = examples_of(toy_bundle, clips[:1])
    other = replace(example, audio=make_wave(len(example.wave), 9))
    first, second = trainer._encode([example]).states, trainer._encode([other]).states
    assert not torch.allclose(first, second, atol=1e-3)


def test_the_replay_ratio_divides_the_audio_of_a_step(toy_bundle: Bundle, make_clip: Callable[..., Clip]) -> None:
    clips = [make_clip(number, seed=4) for number in range(60)]
    examples = examples_of(toy_bundle, clips)
    batches: list[list[str]] = []
    config = replace(CONFIG, batch_seconds=8.0, replay_ratio=0.25, max_steps=1, eval_interval=1)
    trainer = build_trainer(toy_bundle, config)
    step = trainer.step

    def spy(number: int, domain: list[Example], replay: list[Example]) -> JsonObject:
        for part in (domain, replay):
            batches.append([example.id for example in part])
            padded = len(part) * max(len(example.wave) for example in part) / 16_000
            limit = 6.0 if part is domain else 2.0
            assert limit / 2 < padded <= limit
        return step(number, domain, replay)

    trainer.step = spy  # type: ignore[method-assign]
    train(trainer, TrainingData(examples[:40], examples[40:]), (0.5, 0.4))
    assert set(batches[0]) <= {example.id for example in examples[:40]}
    assert set(batches[1]) <= {example.id for example in examples[40:]}


def test_a_replay_ratio_of_zero_leaves_replay_out(toy_bundle: Bundle, clips: list[Clip]) -> None:
    examples = examples_of(toy_bundle, clips)
    _, rows = train(build_trainer(toy_bundle, replace(CONFIG, replay_ratio=0.0)), TrainingData(examples, examples[:2]))
    steps = [row for row in rows if "loss" in row]
    assert all("replay_loss" not in row and row["loss"] == row["domain_loss"] for row in steps)


def test_a_run_on_stored_states_reads_no_audio(
    toy_checkpoint: Path, clips: list[Clip], open_cache: Callable[[Bundle], EncoderCache]
) -> None:
    reads: list[str] = []

    def lazy(example: Example) -> Example:
        def read() -> Wave:
            reads.append(example.id)
            return example.wave

        return replace(example, audio=LazyWave(read, example.num_samples))

    def run(examples: list[Example]) -> None:
        bundle = load_bundle(str(toy_checkpoint), torch.device("cpu"))
        adapter = replace(ADAPTER, targets="decoder")
        config = replace(CONFIG, max_steps=12, eval_interval=12, batch_seconds=100.0)  # an epoch is one step
        trainer = build_trainer(bundle, config, adapter=adapter, cache=open_cache(bundle))
        train(trainer, TrainingData(examples, []), (0.5, 0.4))

    bundle = load_bundle(str(toy_checkpoint), torch.device("cpu"))
    examples = [lazy(example) for example in examples_of(bundle, clips)]
    run(examples)
    # The first batches are read ahead of the first step, which stores the states.
    assert max(reads.count(clip.id) for clip in clips) <= 2 + BATCHES_AHEAD
    reads.clear()
    run(examples)
    assert reads == []


def heard(trainer: Trainer, data: TrainingData) -> list[float]:
    """Train with one step an epoch and return the augmented level of one clip in each."""
    levels: list[float] = []
    step = trainer.step

    def spy(number: int, domain: list[Example], replay: list[Example]) -> JsonObject:
        levels.append(float(next(abs(row.wave).max() for row in domain if row.id == data.domain[0].id)))
        return step(number, domain, replay)

    trainer.step = spy  # type: ignore[method-assign]
    train(trainer, data, (0.5, 0.5, 0.5, 0.5))
    return levels


@pytest.mark.parametrize(("views", "epochs"), [(0, [0, 1, 2, 3, 4, 5]), (2, [0, 1, 0, 1, 0, 1])])
def test_the_augmentation_of_an_epoch_is_that_of_its_view(
    toy_bundle: Bundle, clips: list[Clip], views: int, epochs: list[int]
) -> None:
    def louder(wave: Wave, epoch: int, utterance_id: str) -> Wave:
        return (wave * (1 + 0.1 * epoch)).astype(np.float32)

    examples = examples_of(toy_bundle, clips)
    config = replace(CONFIG, max_steps=6, batch_seconds=100.0, augment_views=views)
    levels = heard(build_trainer(toy_bundle, config, augment=louder), TrainingData(examples, []))
    plain = float(abs(examples[0].wave).max())
    assert [level / plain for level in levels] == pytest.approx([1 + 0.1 * epoch for epoch in epochs], rel=1e-5)


def test_each_view_is_encoded_once(
    toy_bundle: Bundle, clips: list[Clip], open_cache: Callable[[Bundle], EncoderCache]
) -> None:
    made: list[tuple[int, str]] = []

    def louder(wave: Wave, epoch: int, utterance_id: str) -> Wave:
        made.append((epoch, utterance_id))
        return (wave * (1 + 0.1 * epoch)).astype(np.float32)

    config = replace(CONFIG, max_steps=12, eval_interval=12, batch_seconds=100.0, augment_views=2)
    cache = open_cache(toy_bundle)
    trainer = build_trainer(
        toy_bundle, config, adapter=replace(ADAPTER, targets="decoder"), cache=cache, augment=louder
    )
    train(trainer, TrainingData(examples_of(toy_bundle, clips), []))
    assert len(cache.store) == 2 * len(clips)
    assert {epoch for epoch, _ in made} == {0, 1}
    assert len(made) <= (2 + BATCHES_AHEAD) * len(clips)


@pytest.mark.parametrize("on_replay", [False, True])
def test_replay_is_heard_as_it_is_unless_its_augmentation_is_asked_for(
    toy_bundle: Bundle, clips: list[Clip], on_replay: bool
) -> None:
    def softer(wave: Wave, epoch: int, utterance_id: str) -> Wave:
        return (wave * 0.5).astype(np.float32)

    examples = examples_of(toy_bundle, clips)
    clean = {example.id: example.wave for example in examples}
    config = replace(CONFIG, **({"augment_replay": True} if on_replay else {}))
    trainer = build_trainer(toy_bundle, config, augment=softer)
    with closing(trainer.batches(TrainingData(examples[:8], examples[8:]))) as batches:
        for _ in range(4):
            domain, replay = next(batches)
            assert domain
            assert replay
            for example in domain:
                np.testing.assert_array_equal(example.wave, 0.5 * clean[example.id])
            for example in replay:
                np.testing.assert_array_equal(example.wave, (0.5 if on_replay else 1) * clean[example.id])


def test_replay_has_one_view_where_the_domain_has_several(
    toy_bundle: Bundle, clips: list[Clip], open_cache: Callable[[Bundle], EncoderCache]
) -> None:
    def louder(wave: Wave, epoch: int, utterance_id: str) -> Wave:
        return (wave * (1 + 0.1 * epoch)).astype(np.float32)

    config = replace(CONFIG, max_steps=6, eval_interval=6, batch_seconds=200.0, augment_views=2)
    adapter, cache = replace(ADAPTER, targets="decoder"), open_cache(toy_bundle)
    trainer = build_trainer(toy_bundle, config, adapter=adapter, cache=cache, augment=louder)
    examples = examples_of(toy_bundle, clips)
    train(trainer, TrainingData(examples[:8], examples[8:]), (0.5, 0.4))
    assert len(cache.store) == 2 * 8 + 8


def test_audio_that_cannot_be_read_in_training_stops_with_its_name(toy_bundle: Bundle, clips: list[Clip]) -> None:
    def refuse() -> Wave:
        raise AudioError("train.jsonl:3: truncated")

    examples = examples_of(toy_bundle, clips)
    examples[2] = replace(examples[2], audio=LazyWave(refuse, examples[2].num_samples))
    with pytest.raises(AudioError, match=r"train\.jsonl:3: truncated"):
        train(build_trainer(toy_bundle), TrainingData(examples, []))
