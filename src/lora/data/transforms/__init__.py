"""Changes of a waveform on purpose: noise, bands, rooms, speed, pitch, clipping, level, and what SpecAugment drops."""

from lora.data.transforms.pipeline import Augmenter, Pipeline, rng_for
from lora.data.transforms.sounds import VoicePool
from lora.data.transforms.spec import KINDS, Transform, parse_transform, parse_transforms

__all__ = ["KINDS", "Augmenter", "Pipeline", "Transform", "VoicePool", "parse_transform", "parse_transforms", "rng_for"]
