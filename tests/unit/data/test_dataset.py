from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtraits.data.dataset import POOL, Held, LengthBatches, Window, WindowDataset
from mmtraits.schema import Raw


def held(steps: int) -> Held:
    return Held(Raw(np.ones((steps, 2), np.float32), np.ones(steps, np.bool_)))


WINDOWS = [Window(3, 15.0, {"a": held(2), "b": held(0)}), Window(1, 4.0, {"a": held(1), "b": held(5)})]


def test_items_come_in_the_order_given_with_their_clips_labels() -> None:
    dataset = WindowDataset(WINDOWS, np.arange(8).reshape(4, 2))
    assert [dataset[i].row for i in range(len(dataset))] == [3, 1]
    assert dataset[0].labels.tolist() == [6, 7]
    assert dataset[1].seconds == 4.0


def test_keep_clears_the_masks_of_the_other_streams_and_touches_no_stored_one() -> None:
    dataset = WindowDataset(WINDOWS, np.zeros((4, 1)), keep=frozenset("a"))
    assert dataset[1].streams["a"].mask.all()
    assert not dataset[1].streams["b"].mask.any()
    assert WINDOWS[1].present == {"a", "b"}


def test_a_window_knows_its_length_and_what_is_present() -> None:
    assert [window.steps for window in WINDOWS] == [2, 5]
    assert WINDOWS[0].present == {"a"}


@given(st.lists(st.integers(1, 60), min_size=1, max_size=400), st.integers(1, 9), st.integers(0, 5))
def test_every_window_is_met_once_an_epoch_in_batches_that_only_seed_and_epoch_decide(lengths, size, epoch) -> None:
    batches = LengthBatches(lengths, size, seed=1)
    batches.set_epoch(epoch)
    met = list(batches)
    assert sorted(i for batch in met for i in batch) == list(range(len(lengths)))
    assert len(met) == len(batches)
    assert max(map(len, met)) <= size
    again = LengthBatches(lengths, size, seed=1)
    again.set_epoch(epoch)
    assert list(again) == met


def test_another_epoch_has_another_order() -> None:
    batches = LengthBatches(range(1, 100), 4, seed=1)
    first = list(batches)
    batches.set_epoch(1)
    assert list(batches) != first


def test_batches_hold_windows_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, POOL * 32)
    padded = sum(len(batch) * max(lengths[batch]) for batch in LengthBatches(lengths, 32, seed=0))
    assert padded < 1.1 * lengths.sum()  # unsorted it is nearly twice as much


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_an_epoch_in_equal_numbers_of_different_batches(processes) -> None:
    shares = [list(LengthBatches(range(1, 101), 8, seed=0, rank=r, processes=processes)) for r in range(processes)]
    assert len({len(share) for share in shares}) == 1
    met = [i for share in shares for batch in share for i in batch]
    assert len(met) == len(set(met))


# ---------------------------------------------------------------------------------------------------- by person

owners = st.lists(st.integers(0, 9).map(str), min_size=1, max_size=200)


@given(owners, st.integers(1, 9), st.integers(0, 5))
def test_every_person_is_met_equally_often_in_as_many_batches(persons, size, epoch) -> None:
    lengths = [1 + n % 7 for n in range(len(persons))]
    batches, plain = LengthBatches(lengths, size, seed=1, persons=persons), LengthBatches(lengths, size, seed=1)
    batches.set_epoch(epoch)
    met = list(batches)
    assert [len(batch) for batch in met].count(size) >= len(persons) // size
    assert len(met) == len(batches) == len(plain)
    times = Counter(persons[i] for batch in met for i in batch)
    assert set(times) == set(persons)
    assert max(times.values()) - min(times.values()) <= 1
    assert sum(times.values()) == len(persons)
    again = LengthBatches(lengths, size, seed=1, persons=persons)
    again.set_epoch(epoch)
    assert list(again) == met


def test_the_windows_of_a_person_take_turns() -> None:
    persons = ["much"] * 90 + ["little"] * 10
    batches = LengthBatches([1] * 100, 8, seed=0, persons=persons)
    met = Counter(i for batch in batches for i in batch)
    assert all(met[i] == 5 for i in range(90, 100))  # ten windows for fifty turns
    assert max(met[i] for i in range(90)) == 1  # ninety windows for fifty turns
    first = {i for i in range(90) if met[i]}
    batches.set_epoch(1)
    assert {i for batch in batches for i in batch if i < 90} != first


def test_who_is_met_once_more_and_beside_whom_changes() -> None:
    persons = [str(n // 8) for n in range(60)]  # 60 windows of 8 persons: four are met eight times, four seven times
    batches = LengthBatches([1] * 60, 4, seed=0, persons=persons)
    often, together = set(), set()
    for epoch in range(6):
        batches.set_epoch(epoch)
        met = [frozenset(persons[i] for i in batch) for batch in batches]
        times = Counter(persons[i] for batch in batches for i in batch)
        often.add(frozenset(person for person, count in times.items() if count == 8))
        together.add(len(set(met)))
    assert len(often) > 2
    assert min(together) > 4


def test_one_window_each_is_an_ordinary_epoch() -> None:
    batches = LengthBatches(range(1, 51), 8, seed=0, persons=[f"p{n}" for n in range(50)])
    assert sorted(i for batch in batches for i in batch) == list(range(50))


@given(owners, st.integers(1, 4), st.integers(1, 3))
def test_windows_of_a_person_stand_together(persons, together, blocks) -> None:
    lengths, size = [1 + n % 7 for n in range(len(persons))], together * blocks
    batches = LengthBatches(lengths, size, seed=1, persons=persons, together=together)
    met = list(batches)
    assert len(met) == len(batches)
    for batch in met:
        assert len(batch) % together == 0
        for start in range(0, len(batch), together):
            some = batch[start : start + together]
            assert len({persons[i] for i in some}) == 1
            assert len(set(some)) == min(together, persons.count(persons[some[0]]))  # none twice before all
    times = Counter(persons[i] for batch in met for i in batch)
    assert max(times.values()) - min(times.get(person, 0) for person in persons) <= together
