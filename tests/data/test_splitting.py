"""Properties of seeded splits, for any labels."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vpbench.data.splitting import hold_out, stratified_order

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=80).map(lambda values: np.array(values, np.int64))
SEEDS = st.integers(0, 2**32 - 1)


@settings(deadline=None)
@given(LABELS, st.floats(0.01, 0.9), SEEDS)
def test_hold_out_splits_every_class(labels: NDArray[np.int64], share: float, seed: int) -> None:
    kept, held = hold_out(labels, share, seed)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    for label in np.unique(labels):
        count, taken = (labels == label).sum(), (labels[held] == label).sum()
        if count == 1:
            assert taken == 0
        else:
            assert 1 <= taken <= count - 1
            assert abs(taken - share * count) <= 1
    again = hold_out(labels, share, seed)
    assert np.array_equal(kept, again[0])
    assert np.array_equal(held, again[1])


@settings(deadline=None)
@given(LABELS, SEEDS, st.data())
def test_any_beginning_of_a_stratified_order_is_stratified(labels: NDArray[np.int64], seed: int, data: st.DataObject) -> None:
    order = stratified_order(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    cut = data.draw(st.integers(0, len(labels)))
    classes = len(np.unique(labels))
    for label in np.unique(labels):
        share = (labels == label).mean()
        assert abs((labels[order[:cut]] == label).sum() - share * cut) <= 1 + classes * share


def test_seed_decides() -> None:
    labels = np.repeat(np.arange(5), 40)
    assert not np.array_equal(hold_out(labels, 0.1, 0)[1], hold_out(labels, 0.1, 1)[1])
    assert hold_out(labels, 0.1, 0)[1].tolist()[:4] == [5, 7, 12, 18]  # never to change: runs are compared over years
