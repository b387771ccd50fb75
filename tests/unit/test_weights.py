from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mmtraits import weights
from mmtraits.errors import ConfigError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4 * 36, 5))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_load_reads_both_formats(tmp_path, suffix):
    source, target = network(), network()
    nn.init.ones_(target[4].weight)
    path = tmp_path / f"net{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(source.state_dict(), path)
    weights.load(target, str(path))
    assert torch.equal(target[4].weight, source[4].weight)


def test_load_says_what_does_not_fit(tmp_path):
    torch.save({"other": torch.zeros(1)}, tmp_path / "net.pt")
    with pytest.raises(
        ConfigError, match=r'(?s)net.pt: does not fit Sequential; .*Unexpected key\(s\) in state_dict: "other"'
    ):
        weights.load(network(), str(tmp_path / "net.pt"))


def test_a_torch_file_runs_no_code(tmp_path):
    torch.save(network(), tmp_path / "pickled.pt")
    with pytest.raises(
        ConfigError, match="refused: it asks for torch.nn.modules.container.Sequential; expected tensors"
    ):
        weights.read(str(tmp_path / "pickled.pt"))


def test_load_by_order_ignores_names_and_refuses_other_shapes():
    source, target = network(), network()
    nn.init.ones_(target[0].weight)
    tensors = [tensor for name, tensor in source.state_dict().items() if "num_batches" not in name]
    weights.load_by_order(target, tensors)
    assert torch.equal(target[0].weight, source[0].weight)
    with pytest.raises(ConfigError, match="7 tensors do not match the 8 of Sequential"):
        weights.load_by_order(target, tensors[:-1])
    with pytest.raises(ConfigError, match="8 tensors do not match the 8 of Sequential"):
        weights.load_by_order(target, [*tensors[1:], tensors[0]])


@pytest.mark.parametrize(
    ("storage", "dtype", "limit"),
    [("float32", torch.float32, 0), ("float16", torch.float16, 1e-3), ("int8", torch.int8, 3e-2)],
)
def test_frozen_stores_large_weights_small(storage, dtype, limit):
    plain = network().eval()
    frozen = weights.Frozen(copy.deepcopy(plain), storage)
    x = torch.randn(2, 3, 8, 8)
    difference = (frozen(x) - plain(x)).abs().max()
    assert difference <= limit
    assert (difference > 0) == (storage != "float32")
    stored = dict(frozen.named_parameters())
    assert dtype in {tensor.dtype for tensor in stored.values()}
    assert stored["network.1.weight"].dtype == torch.float32, "norms stay exact"


def test_frozen_never_trains():
    frozen = weights.Frozen(network(), "int8").train()
    assert not any(module.training for module in frozen.modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(frozen(x), frozen(x))
    assert not frozen(x).requires_grad


def test_int8_keeps_zero_rows_and_the_largest_value():
    layer = nn.Linear(4, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0, 0, 0], [1, -2, 0.5, 0.25], [1e-3, 0, 0, 0]]))
    exact = layer.weight.detach().clone()
    found = weights.Frozen(nn.Sequential(layer), "int8").network[0].weight
    assert torch.isfinite(found).all()
    assert torch.equal(found[0], exact[0])
    torch.testing.assert_close(found[1, 1], exact[1, 1])
    torch.testing.assert_close(found[2], exact[2])
    assert ((found - exact).abs() <= exact.abs().amax(1, keepdim=True) / 254 + 1e-9).all()


def test_frozen_weights_survive_a_state_dict():
    one, other = weights.Frozen(network(), "int8"), weights.Frozen(network(), "int8")
    nn.init.zeros_(other.network[4].bias)
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(one(x), other(x))
