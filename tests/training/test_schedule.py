"""Warm-up, then half a cosine."""

import pytest

from lora.training.schedule import learning_rate_factor


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine() -> None:
    factors = [learning_rate_factor(step, max_steps=7, warmup_ratio=0.3) for step in range(1, 8)]
    # Two steps of warm-up; then the cosine at 1/6 ... 5/6 of its way.
    assert factors == pytest.approx([0.5, 1.0, 0.933013, 0.75, 0.5, 0.25, 0.066987], abs=1e-6)


@pytest.mark.parametrize("warmup_ratio", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("max_steps", [1, 2, 10])
def test_every_step_learns(max_steps: int, warmup_ratio: float) -> None:
    factors = [
        learning_rate_factor(step, max_steps=max_steps, warmup_ratio=warmup_ratio) for step in range(1, max_steps + 1)
    ]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1
