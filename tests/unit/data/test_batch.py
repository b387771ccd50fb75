import numpy as np
import pytest
import torch

from mmtraits.data.batch import Batch, Item, collate, mixed
from mmtraits.errors import ConfigError
from mmtraits.schema import Raw
from mmtraits.tokens import Tokens


def item(row: int, steps: int, labels: list[float], seconds: float = 1.0, group: int = 0) -> Item:
    there = Raw(np.full((steps, 2), row + 1, np.float32), np.ones(steps, np.bool_))
    absent = Raw(np.zeros((0, 4, 4, 3), np.uint8), np.zeros(0, np.bool_))
    return Item(row, seconds, {"a": there, "b": absent}, np.array(labels, np.float32), group)


def test_collate_pads_under_a_false_mask_and_keeps_what_each_row_is() -> None:
    batch = collate([item(4, 3, [0.1, 0.2], 15.0, 7), item(2, 1, [0.3, np.nan], 2.5, 9)])
    assert batch.features["a"].data.shape == (2, 3, 2)
    assert batch.features["a"].mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.features["a"].data[1].tolist() == [[3, 3], [0, 0], [0, 0]]
    assert batch.rows.tolist() == [4, 2]
    assert batch.weight.tolist() == [15.0, 2.5]
    assert batch.groups.tolist() == [7, 9]


def test_an_unknown_label_is_finite_and_not_known() -> None:
    batch = collate([item(0, 1, [0.5, np.nan])])
    assert batch.known.tolist() == [[True, False]]
    assert torch.isfinite(batch.labels).all()


def test_an_absent_stream_has_one_masked_step_of_its_own_type() -> None:
    frames = collate([item(0, 2, [0.0]), item(1, 1, [0.0])]).features["b"]
    assert frames.data.shape == (2, 1, 4, 4, 3)
    assert frames.data.dtype == torch.uint8
    assert not frames.mask.any()


# ---------------------------------------------------------------------------------------------------- mixup


class Drawn:
    """Every row's partner is the next one; the share drawn is `share`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
        monkeypatch.setattr(torch, "randperm", lambda n: (torch.arange(n) + 1) % n)
        monkeypatch.setattr(torch.distributions.Beta, "sample", lambda _: torch.tensor(share))


def three(data: torch.Tensor, masks: list[list[bool]]) -> Batch:
    """Rows with the labels 0, 1 and 0.5 / unknown; stream `b` is absent in the third."""
    rows = len(masks)
    there = torch.tensor([[True], [True], [False]])
    labels, known = (
        torch.tensor([[0.0, 0.2], [1.0, 0.4], [0.5, 0.0]]),
        torch.tensor([[True, True], [True, False]] * 2)[:3],
    )
    features = {"a": Tokens(data, torch.tensor(masks)), "b": Tokens(torch.zeros(rows, 1, 2), there)}
    return Batch(features, labels, known, torch.ones(rows), torch.arange(rows), torch.arange(rows))


@pytest.mark.parametrize("share", [0.75, 0.25])
def test_mixup_by_hand(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    Drawn(monkeypatch, share)  # a row keeps three quarters of itself either way
    data = torch.tensor([[[1.0], [2.0]], [[5.0], [float("nan")]], [[9.0], [9.0]]])
    found = mixed(three(data, [[True, True], [True, False], [True, True]]), 0.4)
    assert found.features["a"].data[0].tolist() == [[2.0], [2.0]]  # the second step has no partner
    assert found.features["a"].mask.tolist() == [[True, True], [True, False], [True, True]]
    assert found.features["a"].data[1, 0].item() == 5.0  # its partner, the third row, lacks `b`
    assert found.features["a"].data[2].tolist() == [[9.0], [9.0]]
    assert found.labels[0].tolist() == pytest.approx([0.25, 0.25])
    assert found.labels[1:].tolist() == three(data, [[True, True]] * 3).labels[1:].tolist()
    assert found.known.tolist() == [[True, False], [True, False], [True, True]]


def test_mixup_rounds_frames_and_refuses_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    Drawn(monkeypatch, 0.7)
    frames = torch.tensor([[[0]], [[255]], [[7]]], dtype=torch.uint8)
    found = mixed(three(frames, [[True]] * 3), 1.0).features["a"].data
    assert (found.dtype, found.flatten().tolist()) == (torch.uint8, [76, 255, 7])
    with pytest.raises(ConfigError, match="trainer.mixup: stream 'a' holds whole numbers, which cannot be mixed; set"):
        mixed(three(frames.long(), [[True]] * 3), 1.0)
