"""The noise distribution that negatives are drawn from: degree ** power, as an alias table (Walker 1977, built by Vose's method, 1991)."""

import numba
import numpy as np

ALIAS = np.dtype([("threshold", np.float32), ("alias", np.int32)])  # 8 bytes a paper, one cache line a draw


@numba.njit(cache=True)
def _alias(weights, threshold, alias):
    # Change threshold float32 (N,), of ones, and alias int32 (N,), 0, 1, ..., as weights float64 (N,) of mean 1 say
    small, large = np.flatnonzero(weights < 1), np.flatnonzero(weights >= 1)
    smalls, larges = len(small), len(large)
    while smalls and larges:
        smalls -= 1
        lesser, greater = small[smalls], large[larges - 1]
        threshold[lesser], alias[lesser] = weights[lesser], greater
        weights[greater] -= 1 - weights[lesser]
        if weights[greater] < 1:
            larges -= 1
            small[smalls] = greater
            smalls += 1


def alias_table(degree: np.ndarray, power: float, slots: int = 0) -> np.ndarray:
    """The alias table of degree ** power, ALIAS (N,); papers of degree 0 are never drawn. degree: int (N,), ValueError if all are 0.
    With slots, word2vec's unigram table, ALIAS (slots,): a paper has its share of them; what draws reads either."""
    weights = np.where(degree > 0, np.maximum(degree, 1).astype(np.float64) ** power, 0)
    if not weights.sum() > 0:
        raise ValueError("no paper has a citation")
    if slots:
        table, shares = np.zeros(slots, ALIAS), np.cumsum(weights)
        table["alias"] = np.searchsorted(shares, (np.arange(slots) + 0.5) * (shares[-1] / slots), side="right")
        return table
    weights *= len(weights) / weights.sum()
    table, itself = np.empty(len(degree), ALIAS), np.arange(len(degree), dtype=np.int32)
    table["threshold"], table["alias"] = 1, itself
    _alias(weights, table["threshold"], table["alias"])
    never = (degree == 0) & (table["alias"] == itself)  # a paper that rounding left to itself must not be drawn all the same
    table["threshold"][degree == 0], table["alias"][never] = 0, np.argmax(degree)
    return table


def draw(table: np.ndarray, size: int | tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Papers drawn from the table's distribution, int64 of shape `size`."""
    papers = generator.integers(0, len(table), size)
    drawn = table[papers]
    return np.where(generator.random(size, dtype=np.float32) < drawn["threshold"], papers, drawn["alias"]).astype(np.int64)
