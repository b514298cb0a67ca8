"""Score a model on an evaluation set: text, error counts and loss of every utterance, nothing dropped."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import transformers

from lora import processes
from lora.caches import name_damage, read_entry, write_entry
from lora.config import PreprocessConfig
from lora.data.manifest import Manifest
from lora.data.wave_store import WaveStore
from lora.decoding import Recognizer
from lora.evaluation.breakdown import PairedUtterance
from lora.evaluation.wer import ErrorCounts, TextStyle, count_char_errors, count_word_errors, normalize_text, pool
from lora.files import to_json
from lora.model.text import build_token_batch
from lora.training.examples import Example, build_examples
from lora.training.objective import aligned_objective
from lora.training.spread import Advance, map_examples
from lora.units import JsonObject, Wave, seconds_of

PRIMARY_STYLE: TextStyle = "light"
SCORE_VERSION = 2


@dataclass(frozen=True)
class EvaluationSet:
    """A manifest loaded for scoring."""

    name: str
    manifest: Manifest
    examples: tuple[Example, ...]
    content_sha256: str

    @property
    def seconds(self) -> float:
        """Total duration."""
        return sum(example.seconds for example in self.examples)

    @property
    def speakers(self) -> list[int | str | None]:
        """The speaker of each utterance."""
        return [example.speaker_id for example in self.examples]


@dataclass(frozen=True)
class UtteranceScore:
    """One utterance's result.

    Attributes:
        loss: teacher-forced cross-entropy summed over `num_tokens`, in nats.
        ended: False where the token limit cut the text off.
    """

    id: str
    reference: str
    hypothesis: str
    loss: float
    num_tokens: int
    ended: bool
    mean_log_prob: float

    def word_errors(self, style: TextStyle = PRIMARY_STYLE) -> ErrorCounts:
        """Count word errors after normalising both texts."""
        return count_word_errors(normalize_text(self.reference, style), normalize_text(self.hypothesis, style))

    def char_errors(self, style: TextStyle = PRIMARY_STYLE) -> ErrorCounts:
        """Count character errors after normalising both texts."""
        return count_char_errors(normalize_text(self.reference, style), normalize_text(self.hypothesis, style))


@dataclass(frozen=True)
class SetScore:
    """All results of one evaluation set, in the manifest's order."""

    name: str
    utterances: tuple[UtteranceScore, ...]

    def counts(self, style: TextStyle = PRIMARY_STYLE) -> list[ErrorCounts]:
        """Return each utterance's word errors."""
        return [utterance.word_errors(style) for utterance in self.utterances]

    def wer(self, style: TextStyle = PRIMARY_STYLE) -> float | None:
        """Return pooled errors over pooled reference words."""
        return pool(self.counts(style)).rate

    def cer(self, style: TextStyle = PRIMARY_STYLE) -> float | None:
        """Return pooled character errors over pooled reference characters."""
        return pool([utterance.char_errors(style) for utterance in self.utterances]).rate

    @property
    def loss(self) -> float:
        """Teacher-forced loss in nats a token."""
        return sum(row.loss for row in self.utterances) / sum(row.num_tokens for row in self.utterances)

    @property
    def empty(self) -> int:
        """Number of utterances for which no text came out."""
        return sum(not row.hypothesis for row in self.utterances)

    @property
    def unfinished(self) -> int:
        """Number of utterances cut off by the token limit: the sign of a loop."""
        return sum(not row.ended for row in self.utterances)


def load_evaluation_set(
    name: str, manifest: Manifest, recognizer: Recognizer, waves: WaveStore | None = None
) -> EvaluationSet:
    """Check an evaluation manifest's audio and texts; the audio is read again when it is scored.

    Args:
        waves: gives the audio; one of its own unless given.

    Raises:
        ManifestError: every clip or text that cannot be scored, at once.
    """
    waves = waves or WaveStore(recognizer.preprocess)
    examples = tuple(build_examples(recognizer.bundle, manifest.utterances, waves))
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example.id}\n{example.text}\n{example.audio_sha256}\n".encode())
    return EvaluationSet(name, manifest, examples, digest.hexdigest())


def score_set(recognizer: Recognizer, evaluation_set: EvaluationSet, advance: Advance) -> SetScore:
    """Transcribe and score every utterance; each is encoded once for its text and its loss.

    Of several processes each scores its share, and all return the whole.

    Raises:
        CheckFailed: an utterance was scored twice, or not at all.
    """
    rows = map_examples(
        recognizer, evaluation_set.name, evaluation_set.examples, partial(_score_batch, recognizer), advance
    )
    return SetScore(evaluation_set.name, tuple(rows))


@torch.inference_mode()
def _score_batch(recognizer: Recognizer, batch: Sequence[Example], waves: Sequence[Wave]) -> list[UtteranceScore]:
    bundle = recognizer.bundle
    encoded = recognizer.encode(waves)
    transcripts = recognizer.generate(encoded, [seconds_of(len(wave)) for wave in waves])
    targets = build_token_batch(bundle, [example.token_ids for example in batch]).to(bundle.device)
    losses = aligned_objective(bundle.core, bundle.family, encoded, targets).tolist()
    return [
        UtteranceScore(
            id=example.id,
            reference=example.text,
            hypothesis=transcript.text,
            loss=loss,
            num_tokens=len(example.token_ids) + 1,
            ended=transcript.ended,
            mean_log_prob=transcript.mean_log_prob,
        )
        for example, transcript, loss in zip(batch, transcripts, losses, strict=True)
    ]


def pair_utterances(evaluation_set: EvaluationSet, before: SetScore, after: SetScore) -> list[PairedUtterance]:
    """Put both models' texts of every utterance side by side, for the breakdown of errors."""
    return [
        PairedUtterance(
            reference=example.text,
            baseline=old.hypothesis,
            tuned=new.hypothesis,
            seconds=example.seconds,
            speaker_id=example.speaker_id,
            baseline_ended=old.ended,
            tuned_ended=new.ended,
        )
        for example, old, new in zip(evaluation_set.examples, before.utterances, after.utterances, strict=True)
    ]


def score_baseline(
    recognizer: Recognizer, evaluation_set: EvaluationSet, cache_dir: Path, advance: Advance
) -> tuple[SetScore, bool]:
    """Score the base model, or read the score of an earlier run on the same content.

    The key covers the base weights, the audio and texts, preprocessing, decoding, batching and device.

    Returns:
        The score, and whether it came from the cache. An entry that is not what was written is named and made again.
    """
    key = _cache_key(recognizer, evaluation_set)
    path = cache_dir / f"baseline-{key[:32]}.json"
    cached = processes.from_main(lambda: _read_cached(path, key, evaluation_set))
    if cached is not None:
        advance(len(cached.utterances))
        return cached, True
    score = score_set(recognizer, evaluation_set, advance)
    if processes.is_main():
        write_entry(path, key, [asdict(row) for row in score.utterances])
    return score, False


def _cache_key(recognizer: Recognizer, evaluation_set: EvaluationSet) -> str:
    preprocess: PreprocessConfig = recognizer.preprocess
    parts: JsonObject = {
        "version": SCORE_VERSION,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "base": recognizer.bundle.sha256,
        "set": evaluation_set.content_sha256,
        "preprocess": asdict(preprocess),
        "decode": asdict(recognizer.decode),
        "batch": [recognizer.batch_seconds, recognizer.batch_size],
        "device": str(recognizer.bundle.device),
    }
    return hashlib.sha256(to_json(parts, indent=None).encode()).hexdigest()


def _read_cached(path: Path, key: str, evaluation_set: EvaluationSet) -> SetScore | None:
    value = read_entry(path, key)
    if value is None:
        return None
    try:
        rows = tuple(UtteranceScore(**row) for row in value)
    except TypeError as error:
        name_damage(f"{path}: not the score of a set ({error}).")
        return None
    ids = [example.id for example in evaluation_set.examples]
    if [row.id for row in rows] != ids or not all(map(_is_whole, rows)):
        name_damage(f"{path}: a score of other utterances, or with values of another kind.")
        return None
    return SetScore(evaluation_set.name, rows)


def _is_whole(row: UtteranceScore) -> bool:
    """Tell whether every value is of its field's type; JSON gives back 2.0 as a float and 2 as an integer."""
    return all(type(value) is UtteranceScore.__annotations__[name] for name, value in asdict(row).items())
