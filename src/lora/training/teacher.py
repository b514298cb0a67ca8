"""The base model as teacher: its own next-token distributions on replay, computed once and cached.

Self-distillation keeps the adapted model near what it was on speech that is not the domain's. No
transcript is needed: the teacher reads its own text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from lora.decoding import Recognizer
from lora.model.text import build_token_batch
from lora.training.examples import Example
from lora.training.objective import score_positions
from lora.training.spread import Advance, map_examples
from lora.units import Wave, seconds_of

TOP = 64


@dataclass(frozen=True)
class TeacherOutput:
    """The teacher's distribution at each position of one utterance's labels.

    Attributes:
        token_ids: int64 (tokens, top), the likeliest tokens.
        log_probs: float32 (tokens, top), theirs.
    """

    token_ids: Tensor
    log_probs: Tensor


@dataclass(frozen=True)
class _Lesson:
    """One utterance's teacher output, and the text it is of: what the processes tell each other."""

    token_ids: tuple[int, ...]
    text: str
    output: TeacherOutput


def teach(
    recognizer: Recognizer, examples: Sequence[Example], *, own_texts: bool, advance: Advance
) -> tuple[list[Example], dict[str, TeacherOutput]]:
    """Run the base model over replay examples, before any adapter is injected.

    Of several processes each runs it over its share, and all return the whole.

    Args:
        own_texts: replace each transcript by the base model's own text; an utterance for which it writes
            nothing keeps no position but the end token.

    Returns:
        The examples, with the texts that were scored, and the teacher's output by example id.

    Raises:
        CheckFailed: an utterance was taught twice, or not at all.
    """
    work = partial(_teach_batch, recognizer, own_texts)
    lessons = map_examples(recognizer, "teacher outputs", examples, work, advance)
    taught = [
        replace(example, token_ids=lesson.token_ids, text=lesson.text)
        for example, lesson in zip(examples, lessons, strict=True)
    ]
    return taught, {example.id: lesson.output for example, lesson in zip(examples, lessons, strict=True)}


@torch.no_grad()
def _teach_batch(
    recognizer: Recognizer, own_texts: bool, batch: Sequence[Example], waves: Sequence[Wave]
) -> list[_Lesson]:
    bundle = recognizer.bundle
    encoded = recognizer.encode(waves)
    texts = [(example.token_ids, example.text) for example in batch]
    if own_texts:
        transcripts = recognizer.generate(encoded, [seconds_of(len(wave)) for wave in waves])
        texts = [(transcript.token_ids, transcript.text) for transcript in transcripts]
    targets = build_token_batch(bundle, [token_ids for token_ids, _ in texts]).to(bundle.device)
    positions = score_positions(bundle.core, bundle.family, encoded, targets)
    log_probs = torch.log_softmax(positions.logits(), dim=-1)
    top = log_probs.topk(min(TOP, log_probs.shape[-1]), dim=-1)
    # Indexing by a mask copies, so that an utterance's output keeps nothing of its batch.
    outputs = [
        TeacherOutput(top.indices[positions.rows == row].cpu(), top.values[positions.rows == row].cpu())
        for row in range(len(batch))
    ]
    return [_Lesson(*text, output) for text, output in zip(texts, outputs, strict=True)]


def distillation_loss(logits: Tensor, teachers: Sequence[TeacherOutput]) -> Tensor:
    """Return KL(teacher || student) at every position, float32 (positions,).

    The teacher's tokens beyond its likeliest `TOP` are one bucket: their whole mass is compared with the
    student's mass outside the same tokens. This is a lower bound of the full divergence (data processing
    inequality), equal to it for vocabularies up to `TOP`.

    Args:
        logits: float (positions, vocabulary), the positions of `teachers` one after another.
    """
    ids = torch.cat([teacher.token_ids for teacher in teachers]).to(logits.device)
    teacher = torch.cat([teacher.log_probs for teacher in teachers]).to(logits.device)
    student = F.log_softmax(logits.float(), dim=-1).gather(1, ids)
    inside = (teacher.exp() * (teacher - student)).sum(dim=-1)
    if ids.shape[1] == logits.shape[-1]:
        return inside
    rest_teacher = (1 - teacher.exp().sum(dim=-1)).clamp_min(1e-8)
    rest_student = (1 - student.exp().sum(dim=-1)).clamp_min(1e-8)
    return inside + rest_teacher * (rest_teacher.log() - rest_student.log())
