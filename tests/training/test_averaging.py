"""The averaged weights."""

import torch

from lora.training.averaging import WeightAverage


def test_an_average_without_decay_is_the_last_weights() -> None:
    weight = torch.tensor([1.0, 2.0])
    average = WeightAverage([weight], decay=0.0)
    weight += 1
    average.update()
    assert torch.equal(average.averages[0], weight)


def test_the_average_follows_the_formula_and_its_bound() -> None:
    weight = torch.tensor([0.0], dtype=torch.float64)
    average = WeightAverage([weight], decay=0.5)
    expected = 0.0
    for step in range(1, 30):
        weight.fill_(float(step))
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert abs(average.averages[0].item() - expected) < 1e-9


def test_the_weights_are_back_after_the_block() -> None:
    weight = torch.nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(1)))
    average = WeightAverage([weight], decay=0.9)
    start = weight.detach().clone()
    with torch.no_grad():
        weight += 1
    average.update()
    with average.applied():
        assert not torch.equal(weight, start + 1)
        assert torch.equal(weight, average.averages[0])
    assert torch.equal(weight, start + 1)
