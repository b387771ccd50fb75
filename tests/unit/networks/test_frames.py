from __future__ import annotations

import torch
from torch import nn

from mmtraits.networks.frames import Normalize, over_real


def test_normalize_takes_each_colour_by_its_own_numbers():
    frames = torch.tensor([0, 255, 51], dtype=torch.uint8).expand(2, 4, 4, 3)
    found = Normalize((0.5, 0.5, 0.0), (0.5, 0.25, 0.1))(frames)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[1, 2, 3], torch.tensor([-1.0, 2.0, 2.0]))


class Norm(nn.Module):
    """The mean over space of batch-normalised pictures."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, pictures):
        return self.norm(pictures).mean((2, 3))


def test_a_training_network_sees_real_items_alone():
    items = torch.randn(6, 3, 4, 4)
    real = torch.tensor([True, False, True, True, False, True])
    padded, alone = Norm().train(), Norm().train()
    found, expected = over_real(padded, items, real), alone(items[real])
    assert found.shape == (6, 3)
    torch.testing.assert_close(found[real], expected)
    assert not found[~real].any()
    torch.testing.assert_close(padded.norm.running_mean, alone.norm.running_mean)
    found.sum().backward()
    assert padded.norm.bias.grad is not None


def test_a_network_in_eval_mode_sees_all_of_them():
    items = torch.randn(3, 3, 4, 4)
    network = Norm().eval()
    assert torch.equal(over_real(network, items, torch.tensor([True, False, True])), network(items))


def test_a_batch_without_any_real_item_still_trains():
    network = Norm().train()
    over_real(network, torch.randn(3, 3, 4, 4), torch.zeros(3, dtype=torch.bool)).sum().backward()
    assert network.norm.weight.grad is not None
