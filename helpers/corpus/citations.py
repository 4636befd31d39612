"""Citations as pairs of numbers -> CSR by citing paper, without doubles, in the papers' final order."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np

from helpers.artefacts import new_array, open_npy

UNRECORDED, INSIDE, OUTSIDE = 0, 1, 2  # states of a paper: only named by citations; with a record in the subset; with one outside it
MIRRORED = 1  # of an edge: listed by the cited paper
EDGES_AT_A_TIME, PAPERS_AT_A_TIME = 1 << 21, 1 << 15


def _edges(path: Path):
    with open(path, "rb") as file:
        while len(values := np.fromfile(file, np.uint32, 2 * EDGES_AT_A_TIME)):
            yield values.reshape(-1, 2)


@numba.njit(cache=True, nogil=True)
def _place(edges, state, places, cited_of):
    # Move each citing paper's place on by its edges that stay, written into cited_of unless that is empty; returns (outside, selves)
    outside = selves = 0
    for i in range(len(edges)):
        citing, cited = edges[i, 0], edges[i, 1] >> 1
        if state[citing] == OUTSIDE or state[cited] == OUTSIDE:
            outside += 1
        elif citing == cited:
            selves += 1
        else:
            if len(cited_of):
                cited_of[places[citing]] = edges[i, 1]
            places[citing] += 1
    return outside, selves


@numba.njit(cache=True, nogil=True)
def sort_row(row):
    """Sort a short row in place."""
    if len(row) > 48:
        row.sort()
        return
    for i in range(1, len(row)):
        value, j = row[i], i
        while j and row[j - 1] > value:
            row[j] = row[j - 1]
            j -= 1
        row[j] = value


@numba.njit(cache=True, nogil=True)
def _unique(indptr, cited_of):
    # Sort each row, drop its doubles and its MIRRORED bits, close up, in place; returns (doubles, of these listed by the cited paper)
    place = doubles = mirrored = start = 0
    for row in range(len(indptr) - 1):
        stop = indptr[row + 1]
        sort_row(cited_of[start:stop])
        before = np.int64(-1)
        for p in range(start, stop):
            cited = np.int64(cited_of[p] >> 1)
            if cited == before:
                doubles += 1
                mirrored += cited_of[p] & MIRRORED
            else:
                cited_of[place] = cited
                place += 1
            before = cited
        indptr[row + 1] = place
        start = stop
    return doubles, mirrored


def by_citing(edges: Path, cited_file: Path, state: np.ndarray, dropped: Counter) -> tuple[np.ndarray, np.ndarray]:
    """(indptr int64 (n+1,), cited uint32 (E,), mapped from cited_file) of the pairs in `edges`, each once, ascending; state: uint8 (n,)."""
    counts = np.zeros(len(state), np.int64)
    for some in _edges(edges):
        outside, selves = _place(some, state, counts, np.empty(0, np.uint32))
        dropped["outside the subset"] += outside
        dropped["self citation"] += selves
    indptr = np.concatenate([[0], np.cumsum(counts)])
    cited_of = new_array(cited_file, np.uint32, (int(indptr[-1]),))
    places = indptr[:-1].copy()
    for some in _edges(edges):
        _place(some, state, places, cited_of)
    doubles, mirrored = _unique(indptr, cited_of)
    dropped["also listed by the cited paper"] += mirrored  # no loss: S2 lists every citation at both its ends
    dropped["duplicate citation"] += doubles - mirrored
    return indptr, cited_of[: indptr[-1]]


@numba.njit(cache=True, nogil=True)
def _degrees(indptr, cited_of, chosen):
    # how many citations each paper has with others, both of them in `chosen`, int32 (n,)
    degree = np.zeros(len(indptr) - 1, np.int32)
    for citing in range(len(indptr) - 1):
        for p in range(indptr[citing], indptr[citing + 1]):
            if chosen[citing] and chosen[cited_of[p]]:
                degree[citing] += 1
                degree[cited_of[p]] += 1
    return degree


def choose(indptr: np.ndarray, cited_of: np.ndarray, state: np.ndarray, min_degree: int, report) -> tuple[np.ndarray, np.ndarray]:
    """(order: papers of at least min_degree citations in descending degree, int64 (N,); degree int32 (n,) among those)."""
    usable = state != OUTSIDE
    degree = _degrees(indptr, cited_of, usable)
    chosen = usable & ((state == INSIDE) | (degree > 0)) & (degree >= min_degree)
    report.dropped["papers"]["too few citations"] += int((usable & (state == INSIDE) & ~chosen).sum())
    if min_degree:
        degree = _degrees(indptr, cited_of, chosen)
    order = np.flatnonzero(chosen)
    return order[np.argsort(-degree[order], kind="stable")], degree  # ties in order of appearance: the same dump gives the same ids


@numba.njit(cache=True, nogil=True)
def _renumber(order, new_id, indptr, cited_of, cited, counts):
    # Fill cited with the citations of the papers in `order`, by their new numbers, ascending for each; returns how many there are
    place = 0
    for row in range(len(order)):
        start = place
        for p in range(indptr[order[row]], indptr[order[row] + 1]):
            if new_id[cited_of[p]] >= 0:
                cited[place] = new_id[cited_of[p]]
                place += 1
        sort_row(cited[start:place])
        counts[row] = place - start
    return place


def renumber(indptr: np.ndarray, cited_of: np.ndarray, order: np.ndarray, E: int, folder: Path) -> None:
    """Write `citations_indptr.npy`, `citations.npy` of the E citations among the papers in `order`."""
    new_id = np.full(len(indptr) - 1, -1, np.int32)
    new_id[order] = np.arange(len(order), dtype=np.int32)
    new_indptr = np.zeros(len(order) + 1, np.int64)
    with open_npy(folder / "citations.npy", np.int32, E) as file:
        for first in range(0, len(order), PAPERS_AT_A_TIME):
            some = order[first : first + PAPERS_AT_A_TIME]
            cited = np.empty(int((indptr[some + 1] - indptr[some]).sum()), np.int32)
            file.write(memoryview(cited[: _renumber(some, new_id, indptr, cited_of, cited, new_indptr[first + 1 :])]))
    np.save(folder / "citations_indptr.npy", np.cumsum(new_indptr))


def row_ranges(indptr: np.ndarray, most: int) -> Iterator[slice]:
    """The rows of a CSR, cut into runs of at most `most` entries, or one row."""
    first, N = 0, len(indptr) - 1
    while first < N:
        last = max(first + 1, int(np.searchsorted(indptr, indptr[first] + most, side="right")) - 1)
        yield slice(first, last)
        first = last
