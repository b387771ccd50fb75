import numpy as np
import torch

from mmtraits.data.batch import Item, collate
from mmtraits.schema import Raw


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
