"""The choice of the adapter's strength."""

from lora.runners.stages import gentlest_strength


def test_the_smallest_strength_with_most_of_the_gain_is_chosen() -> None:
    assert gentlest_strength([0.5, 0.8, 1.0], [0.20, 0.29, 0.30]) == 0.8
    assert gentlest_strength([0.5, 0.8, 1.0], [0.20, 0.28, 0.30]) == 1.0


def test_a_strength_beyond_the_guardrails_budget_does_not_set_the_mark() -> None:
    # The penalty has made the full adapter's gain small.
    assert gentlest_strength([0.5, 0.7, 1.0], [0.20, 0.21, 0.05]) == 0.5


def test_without_a_gain_the_least_loss_is_chosen() -> None:
    assert gentlest_strength([0.0, 0.5, 1.0], [0.0, -0.1, -0.2]) == 0.0
