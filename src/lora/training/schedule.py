"""The learning rate over a run: linear warm-up, then cosine decay to zero."""

import math


def learning_rate_factor(step: int, *, max_steps: int, warmup_ratio: float) -> float:
    """Return the multiple of the peak learning rate at `step`, counted from 1.

    Half a cosine from 1 to 0 after the warm-up (Loshchilov and Hutter, SGDR, 2017, without restarts); the
    last step still learns.
    """
    warmup = max(round(max_steps * warmup_ratio), 1)
    if step <= warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (max_steps - warmup + 1)))
