"""The held-out split: citations that training never sees, in either direction."""

import numba
import numpy as np


def choose_heldout(indptr: np.ndarray, fraction: float, generator: np.random.Generator, eligible: np.ndarray | None = None) -> np.ndarray:
    """Places int64 (n,), ascending, of the hidden citations: `fraction` of the eligible ones, drawn without replacement.

    indptr: int64 (N+1,), the citations by citing paper; eligible: bool (N,), the papers whose citations may be hidden, None for all.
    """
    counts = np.diff(indptr) if eligible is None else np.where(eligible, np.diff(indptr), 0)
    before = np.cumsum(counts)
    of, size = int(before[-1]), round(fraction * int(before[-1]))
    few, drawn = size <= of // 4, np.empty(0, np.int64)
    while few and len(drawn) < size:  # so that memory follows what is hidden, not all that could be
        drawn = np.unique(np.concatenate([drawn, generator.integers(0, of, size - len(drawn) + 1000)]))
    drawn = np.sort(generator.permutation(drawn if few else of)[:size])
    paper = np.searchsorted(before, drawn, side="right")
    return np.asarray(indptr)[paper + 1] - (before[paper] - drawn)


@numba.njit(cache=True, nogil=True)
def _mark_reversed(citing, cited, indptr, cited_by_row, apart):
    """Mark the citations that run against a hidden one; returns how many of them are not hidden themselves."""
    found = 0
    for i in range(len(citing)):
        first, last = indptr[cited[i]], indptr[cited[i] + 1]
        place = first + np.searchsorted(cited_by_row[first:last], citing[i])
        if place < last and cited_by_row[place] == citing[i] and not apart[place]:
            apart[place] = True
            found += 1
    return found


def set_apart(indptr: np.ndarray, cited: np.ndarray, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """(hidden citations int32 (n, 2); which citations training may not see, bool (E,); how many of those only run against a hidden one).

    Two papers may cite each other: then hiding one citation takes the other out of training too. cited: int32 (E,), ascending in a row.
    """
    apart = np.zeros(len(cited), bool)
    apart[hidden] = True
    heldout = np.stack([np.searchsorted(indptr, hidden, side="right") - 1, cited[hidden]], axis=1).astype(np.int32)
    return heldout, apart, int(_mark_reversed(*heldout.T, np.asarray(indptr), cited, apart))
