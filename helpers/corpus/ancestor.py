"""The ancestor's own dump: an HDF5 file and, in the same folder, pickles of titles and S2 ids (written from its description)."""

# `labels0`, `labels1`, ... hold row ids, `batch0`, `batch1`, ... for each of them a list of row ids: whom it cites and who cites it, not
# told apart. A pair is taken as a citation of the larger row by the smaller: each counts once, whichever end lists it, and the other end's
# mention is counted as `also listed by the cited paper`. The pickles are dicts or lists, row -> title and row -> S2 id (told apart by what
# is in them); a paper's id is its S2 id, or else its row.

import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from helpers.corpus.records import BATCH_RECORDS, PAPERS, Report, batch_of, text
from helpers.errors import DumpError, in_a_line

MAGIC = b"\x89HDF"
PICKLES = (".pickle", ".pkl", ".p")
S2_ID = re.compile(r"[0-9a-f]{40}")


class _Plain(pickle._Unpickler):  # the one written in Python: C's sets aside whatever memory a damaged file asks for
    # Plain containers, strings and numbers only: nothing is imported, so nothing can run

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _texts(path: Path) -> pa.Array:
    # The texts of a pickle by row, large_string (n,), null where there is none
    try:
        with open(path, "rb") as file:
            values = _Plain(file).load()
        by_row = values if isinstance(values, dict) else dict(enumerate(values))
        if max(by_row) > 100 + 10 * len(by_row):
            raise ValueError("its rows are far apart")
        return pa.array([text(by_row.get(row)) for row in range(max(by_row) + 1)], pa.large_string())
    except Exception as error:  # a damaged pickle may end in any exception there is
        raise DumpError(f"{path} is not a pickle of plain dicts, lists, strings and numbers alone ({in_a_line(error)}).") from error


def _of_rows(texts: pa.Array, rows: np.ndarray) -> pa.Array:
    # The texts of rows int64 (n,), string, null where there is none
    return texts.take(pa.array(rows, mask=(rows < 0) | (rows >= len(texts)))).cast(pa.string())


def batches(file, on_bytes: Callable[[int], None], report: Report) -> Iterator[pa.RecordBatch]:
    """Batches of PAPERS from an HDF5 file and the pickles beside it; on_bytes: called with the bytes of each dataset, about."""
    titles = ids = pa.array([], pa.large_string())
    for path in sorted(path for path in file.path.parent.iterdir() if path.suffix.lower() in PICKLES):
        texts = _texts(path)
        if all(S2_ID.fullmatch(value or "") for value in texts.drop_null()[:100].to_pylist()):
            ids = texts
        else:
            titles = texts
    for rows, counts, others in _rows(file, on_bytes):
        of_others, later = np.repeat(np.arange(len(rows)), counts), others >= np.repeat(rows, counts)
        lists, nothing = [], [pa.nulls(len(rows), field.type) for field in list(PAPERS)[2:-2]]
        for some in (later, ~later):
            ends = np.cumsum(np.bincount(of_others[some], minlength=len(rows)))
            offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
            lists.append(pa.ListArray.from_arrays(offsets, _names(others[some], ids)))
        values = [_names(rows, ids), _of_rows(titles, rows), *nothing, *lists]
        yield batch_of(values, PAPERS, report, lambda i, rows=rows: f"{file.name}, row {rows[i]}", "no id")


def _names(rows: np.ndarray, ids: pa.Array) -> pa.Array:
    return pc.coalesce(_of_rows(ids, rows), pa.array(rows, mask=rows < 0).cast(pa.string()))


def _rows(file, on_bytes) -> Iterator[tuple[np.ndarray, list[int], np.ndarray]]:
    # (rows int64 (n,), how many others each lists, those int64), BATCH_RECORDS rows at a time
    try:
        import h5py

        with h5py.File(file.path, "r") as datasets:
            parts = sorted(int(name[5:]) for name in datasets if re.fullmatch(r"batch\d{1,9}", name))
            for part in parts:
                labels, lists = datasets[f"labels{part}"], datasets[f"batch{part}"]
                kind = lists.id.get_type()
                if not isinstance(kind, h5py.h5t.TypeVlenID) or kind.encode()[3]:  # neither lists nor texts: the library would crash
                    raise ValueError(f"batch{part} holds no lists")
                if len(labels) > file.size:
                    raise ValueError(f"batch{part} would be larger than the file")
                for first in range(0, len(labels), BATCH_RECORDS):
                    rows = labels[first : first + BATCH_RECORDS].astype(np.int64)
                    found = [others.astype(np.int64) for others in lists[first : first + BATCH_RECORDS]]
                    if rows.min(initial=0) < 0 or len(found) != len(rows):
                        raise ValueError(f"batch{part} does not belong to labels{part}")
                    yield rows, [len(others) for others in found], np.concatenate([np.empty(0, np.int64), *found])
                on_bytes(file.size // len(parts))
    except Exception as error:  # damage shows as any of a dozen exceptions
        raise DumpError(f"{file} is damaged or not the ancestor's ({in_a_line(error)}); download it again, or pip install h5py.") from error
