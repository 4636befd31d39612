"""The ancestor's own dump: an HDF5 file and, in the same folder, pickles of titles and S2 ids (written from its description).

`labels0`, `labels1`, ... hold row ids, `batch0`, `batch1`, ... for each of them a list of row ids: whom it cites and who cites it, not
told apart. A pair is taken as a citation of the larger row by the smaller: each counts once, whichever end lists it, and the other end's
mention is counted as `also listed by the cited paper`. The pickles are dicts or lists, row -> title and row -> S2 id (told apart by what
is in them); a paper's id is its S2 id, or else its row. Unpickling takes about 6 GB of memory for 15 million papers.
"""

import contextlib
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from helpers.corpus.records import BATCH_RECORDS, PAPERS, Report, text
from helpers.errors import DumpError, UserError

try:
    import h5py
except ImportError:
    h5py = None

MAGIC = b"\x89HDF"
PICKLES = (".pickle", ".pkl", ".p")
LIST = np.dtype([("length", "<u4"), ("heap", "<u8"), ("number", "<u4")])  # how HDF5 keeps a list of a dataset without chunks
S2_ID = re.compile(r"[0-9a-f]{40}")
PLAIN = """PROTO FRAME STOP MARK POP POP_MARK PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET NONE NEWTRUE NEWFALSE INT BININT BININT1
BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST
LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS""".split()


class _Unpickler(pickle._Unpickler):
    """Knows the opcodes of plain containers, strings and numbers only: none that imports or calls.

    The one written in Python, as C's has no such table (and sets aside whatever memory a damaged file asks for).
    """

    dispatch = {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in PLAIN}  # noqa: RUF012


class _Texts:
    """The texts of a pickle by row: rows int64 (n,) ascending, texts a string array (n,)."""

    def __init__(self, path: Path):
        try:
            with open(path, "rb") as file:
                values = _Unpickler(file).load()
            pairs = values.items() if isinstance(values, dict) else enumerate(values if isinstance(values, list | tuple) else ())
            found = {row: kept for row, value in pairs if type(row) is int and (kept := text(value))}
            rows = np.fromiter(found, np.int64, len(found))
        except Exception as error:  # a bad opcode may end in any exception there is
            reason = f"{type(error).__name__} {str(error)[:80]}".strip()
            raise DumpError(
                f"{path} is not a pickle of plain dicts, lists, strings and numbers ({reason}); nothing else is read."
            ) from error
        if not found:
            raise DumpError(f"{path} holds no row -> title and no row -> S2 id, as the pickles beside an HDF5 dump do; move it elsewhere.")
        order = np.argsort(rows)
        self.rows, self.texts = rows[order], pa.array(list(found.values()), pa.large_string()).take(pa.array(order))
        self.are_ids = all(S2_ID.fullmatch(value) for value in self.texts[:100].to_pylist())

    def of(self, rows: np.ndarray) -> pa.Array:
        """The texts of int64 (n,) rows, null where there is none."""
        dense = self.rows[0] == 0 and self.rows[-1] == len(self.rows) - 1  # as they should be: no search
        places = np.clip(rows if dense else np.searchsorted(self.rows, rows), 0, len(self.rows) - 1)
        return self.texts.take(pa.array(places, mask=self.rows[places] != rows)).cast(pa.string())


class Ancestor:
    """A reader of one HDF5 file and of the pickles beside it."""

    SCHEMA = PAPERS

    def __init__(self, file):
        if h5py is None:
            raise DumpError(f"{file} is an HDF5 file, and h5py is missing; run pip install h5py.")
        if file.member or not h5py.is_hdf5(file.path):
            raise DumpError(f"{file} is an HDF5 file inside an archive; unpack it first.")
        self.file = file
        with self._opened() as datasets:
            self.parts = sorted(
                int(name[5:]) for name in datasets if re.fullmatch(r"batch\d{1,9}", name) and f"labels{name[5:]}" in datasets
            )
            if not self.parts:
                raise DumpError(f"{file} is an HDF5 file without the datasets labels0, batch0, ... of the ancestor; give another path.")

    @contextlib.contextmanager
    def _opened(self) -> Iterator:
        try:
            with h5py.File(self.file.path, "r") as datasets:
                yield datasets
        except UserError:
            raise
        except Exception as error:  # damage shows as any of a dozen exceptions
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise DumpError(f"{self.file} is damaged or not the ancestor's ({reason}); download it again.") from error

    def batches(self, on_bytes: Callable[[int], None], report: Report) -> Iterator[pa.RecordBatch]:
        """Batches of PAPERS; on_bytes: called with the bytes of each dataset read, all taken to be of the same size."""
        beside = [_Texts(path) for path in sorted(self.file.path.parent.iterdir()) if path.suffix.lower() in PICKLES]
        titles, ids = ([texts for texts in beside if texts.are_ids == are_ids] for are_ids in (False, True))
        if len(titles) > 1 or len(ids) > 1:
            raise DumpError(f"{self.file.path.parent} holds several pickles of {'titles' if len(titles) > 1 else 'ids'}; keep one.")
        for rows, lists in self._rows(on_bytes):
            numbers, counts = rows.astype(str), [len(others) for others in lists]
            others, of_others = np.concatenate([np.empty(0, np.int64), *lists]), np.repeat(np.arange(len(rows)), counts)
            report.count("papers", len(rows))
            title = titles[0].of(rows) if titles else pa.nulls(len(rows), pa.string())
            for i in np.flatnonzero(title.is_null().to_numpy(zero_copy_only=False)):
                report.lacks("no title", f"{self.file.name}, row {numbers[i]}")
            later = others >= rows[of_others]
            columns = {"paper_id": _names(rows, ids), "title": title}
            for name, some in (("references", later), ("cited_by", ~later)):
                ends = np.cumsum(np.bincount(of_others[some], minlength=len(rows)))
                offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
                columns[name] = pa.ListArray.from_arrays(offsets, _names(others[some], ids))
            yield pa.RecordBatch.from_arrays([columns.get(name, pa.nulls(len(rows), kind)) for name, kind in _TYPES], schema=PAPERS)

    def _rows(self, on_bytes) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        """(rows int64 (n,), their lists of rows), BATCH_RECORDS at a time."""
        with self._opened() as datasets:
            for part in self.parts:
                labels, lists = datasets[f"labels{part}"], datasets[f"batch{part}"]
                whole = labels.dtype.kind in "iu" and np.dtype(h5py.check_vlen_dtype(lists.dtype) or object).kind in "iu"
                if not whole or labels.ndim != 1 or labels.shape != lists.shape:
                    raise DumpError(
                        f"{self.file}: expected labels{part} of integers and batch{part} of as many lists of integers, found "
                        f"{labels.dtype} {labels.shape} and {lists.dtype} {lists.shape}; download it again."
                    )
                if (place := lists.id.get_offset()) and lists.id.get_storage_size() == LIST.itemsize * len(lists):
                    listed = np.fromfile(self.file.path, LIST, len(lists), offset=place)
                    if not _are_whole(np.memmap(self.file.path, np.uint8, "r"), listed[listed["length"] > 0]):
                        raise DumpError(f"{self.file}: the lists of batch{part} are damaged; download it again.")
                for first in range(0, len(labels), BATCH_RECORDS):
                    rows = labels[first : first + BATCH_RECORDS].astype(np.int64)
                    if (rows < 0).any():
                        raise DumpError(f"{self.file}: labels{part} names the row {rows.min()}; download it again.")
                    yield rows, [others.astype(np.int64) for others in lists[first : first + BATCH_RECORDS]]
                on_bytes(self.file.size // len(self.parts))


def _are_whole(file: np.ndarray, lists: np.ndarray) -> bool:
    """Whether lists, of LIST (n,), fit into the file, uint8 (B,), and the heaps that hold them are chains that end.

    HDF5's library would set aside whatever memory a damaged length asks for, and follow a chain with a hole of zeros forever.
    """
    return lists["length"].sum(dtype=np.int64) <= len(file) and bool(_chains_end(file, np.unique(lists["heap"]).astype(np.int64)))


@numba.njit(cache=True)
def _number(file, place):
    value = np.int64(0)
    for i in range(8):
        value |= np.int64(file[place + i]) << (8 * i)
    return value


@numba.njit(cache=True)
def _chains_end(file, heaps):
    for heap in heaps:
        size = _number(file, heap + 8) if 0 <= heap <= len(file) - 16 else 0
        if not 16 <= size <= len(file) - heap:
            return False
        place = heap + 16
        while place + 16 <= heap + size:
            length = _number(file, place + 8)
            is_free = file[place] == 0 and file[place + 1] == 0  # object 0 is what is left of the heap, its own header included
            step = length if is_free else 16 + (length + 7) // 8 * 8
            if length < 0 or not 0 < step <= heap + size - place:
                return False
            place += step
    return True


_TYPES = [(field.name, field.type) for field in PAPERS]


def _names(rows: np.ndarray, ids: list[_Texts]) -> pa.Array:
    """The paper ids of rows; null for a negative one, which is none."""
    numbers = pa.array(rows, mask=rows < 0).cast(pa.string())
    return pc.coalesce(ids[0].of(rows), numbers) if ids else numbers
