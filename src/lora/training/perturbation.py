"""Random weight perturbation towards flat minima (Flat-LoRA)."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft.tuners.lora import LoraLayer


class FlatPerturbation:
    """Adds noise to the adapted layers' full weights for one forward and backward pass.

    Flat-LoRA (Li et al., ICML 2025, arXiv 2409.14396) minimises the expected loss
    E L(W + BA + eps) with eps[i, j] ~ N(0, sigma^2 / n |W'[i, :]|^2), where W' = W + s BA is the merged
    weight and n its number of input features: noise in proportion to each output filter, independent of
    the layer's width. sigma grows with the step as sigma_max / 2 (1 - cos(pi t / T)), the paper's schedule.
    The noise comes from a generator seeded by (seed, step). The paper regenerates it to take it away; here
    the weights are copied and put back, which is exact to the bit and cheap at Moonshine's sizes.

    Args:
        sigma: sigma_max; the paper uses 0.05 to 0.15.
    """

    def __init__(self, layers: Sequence[LoraLayer], *, sigma: float, max_steps: int, seed: int) -> None:
        self.layers = layers
        self.sigma = sigma
        self.max_steps = max_steps
        self.seed = seed

    @contextmanager
    def applied(self, step: int) -> Iterator[None]:
        """Perturb the weights inside the block; afterwards they are what they were, to the bit."""
        sigma = self.sigma / 2 * (1 - math.cos(math.pi * step / self.max_steps))
        kept = [layer.get_base_layer().weight.detach().clone() for layer in self.layers]
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        with torch.no_grad():
            for layer in self.layers:
                weight = layer.get_base_layer().weight
                merged = weight + layer.get_delta_weight("default")
                scale = sigma * merged.norm(dim=1, keepdim=True) / math.sqrt(weight.shape[1])
                weight += scale * torch.randn(weight.shape, generator=generator).to(weight)
        try:
            yield
        finally:
            with torch.no_grad():
                for layer, original in zip(self.layers, kept, strict=True):
                    layer.get_base_layer().weight.copy_(original)
