"""The noise distribution that negatives are drawn from: degree ** power, as an alias table (Walker 1977, built by Vose's method, 1991)."""

import numba
import numpy as np

ALIAS = np.dtype([("threshold", np.float32), ("alias", np.int32)])  # 8 bytes a paper, one cache line a draw


@numba.njit(cache=True)
def _alias(weights, threshold, alias):
    """Fill threshold float32 (N,) and alias int32 (N,) from weights float64 (N,) whose mean is 1."""
    N = len(weights)
    small, large = np.empty(N, np.int32), np.empty(N, np.int32)
    smalls = larges = 0
    for i in range(N):
        alias[i] = i
        if weights[i] < 1:
            small[smalls] = i
            smalls += 1
        else:
            large[larges] = i
            larges += 1
    while smalls and larges:
        smalls -= 1
        lesser, greater = small[smalls], large[larges - 1]
        threshold[lesser], alias[lesser] = weights[lesser], greater
        weights[greater] -= 1 - weights[lesser]
        if weights[greater] < 1:
            larges -= 1
            small[smalls] = greater
            smalls += 1
    for i in range(smalls):  # what rounding left over
        threshold[small[i]] = 1
    for i in range(larges):
        threshold[large[i]] = 1


def alias_table(degree: np.ndarray, power: float) -> np.ndarray:
    """The alias table of degree ** power, ALIAS (N,); papers of degree 0 are never drawn. degree: int (N,), ValueError if all are 0."""
    weights = np.where(degree > 0, np.maximum(degree, 1).astype(np.float64) ** power, 0)
    if not weights.sum() > 0:
        raise ValueError("no paper has a citation")
    weights *= len(weights) / weights.sum()
    table = np.empty(len(degree), ALIAS)
    threshold, alias = np.empty(len(degree), np.float32), np.empty(len(degree), np.int32)
    _alias(weights, threshold, alias)
    heaviest = int(np.argmax(degree))
    never = (degree == 0) & (alias == np.arange(len(degree)))  # a paper that rounding left to itself must not be drawn all the same
    threshold[degree == 0], alias[never] = 0, heaviest
    table["threshold"], table["alias"] = threshold, alias
    return table


def draw(table: np.ndarray, size: int | tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Papers drawn from the table's distribution, int64 of shape `size`."""
    papers = generator.integers(0, len(table), size)
    drawn = table[papers]
    return np.where(generator.random(size, dtype=np.float32) < drawn["threshold"], papers, drawn["alias"]).astype(np.int64)
