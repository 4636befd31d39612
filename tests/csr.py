"""Compressed sparse rows: all neighbours of a row behind one another in one array, the rows' bounds in a second."""

import numba
import numpy as np


@numba.njit(cache=True)
def _sort_by(keys, values, N):
    """(indptr int64 (N+1,), values in the order of their keys), a stable counting sort."""
    indptr = np.zeros(N + 1, np.int64)
    for key in keys:
        indptr[key + 1] += 1
    for i in range(N):
        indptr[i + 1] += indptr[i]
    place = indptr[:-1].copy()
    ordered = np.empty_like(values)
    for i in range(len(keys)):
        ordered[place[keys[i]]] = values[i]
        place[keys[i]] += 1
    return indptr, ordered


def csr(rows: np.ndarray, columns: np.ndarray, N: int) -> tuple[np.ndarray, np.ndarray]:
    """Entries (rows[i], columns[i]) as (indptr int64 (N+1,), columns int32 (E,)), the columns of a row ascending, doubles kept.

    rows, columns: int32 or int64 (E,), each below N (ValueError otherwise: the kernel has no bounds checks).
    """
    for ids in (rows, columns):
        if len(ids) and not (0 <= ids.min() and ids.max() < N):
            raise ValueError(f"ids from {ids.min()} to {ids.max()} do not fit {N} rows")
    rows, columns = rows.astype(np.int32), columns.astype(np.int32)
    _, by_column = _sort_by(columns, rows, N)  # sorting by column first makes each row's columns ascend: both sorts are stable
    return _sort_by(by_column, np.sort(columns), N)
