"""Tables, told apart by their header, as CSV, TSV (.gz or not) or parquet; and the HDF5 of the ancestor."""

# An edge list `citing,cited`, or NIH's Open Citation Collection `citing,referenced`; a papers table `id` or `paper_id`, `title`, `year`,
# perhaps `venue`, `fields`, `doi`, `pmid`; or NIH's `icite_metadata.csv` (`pmid`, `journal`, ...).

import codecs
import csv
import itertools
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from helpers.corpus.records import BATCH_RECORDS, CITATIONS, PAPERS, SPACES, Report, batch_of, text, texts
from helpers.errors import DumpError, in_a_line

# What a batch calls a column -> what tables call it
COLUMNS = {name: (name,) for name in ("citing", "title", "year", "fields", "doi", "pmid", "references")}
COLUMNS |= {"cited": ("cited", "referenced"), "paper_id": ("paper_id", "id", "pmid"), "venue": ("venue", "journal")}
BLOCK = 1 << 22  # bytes of a CSV parsed at a time; no row may be longer
MOST_ENDS = {"title": 20, "venue": 20}  # ends of lines within a value: more are what a lost quotation mark takes along
PICKLES = (".pickle", ".pkl", ".p")
S2_ID = re.compile(r"[0-9a-f]{40}")
SUBSTITUTE = "\x1a"  # ASCII's own sign for a character that is none, which stands for bytes that are no UTF-8 where MARKED is decoded
MARKED = codecs.CodecInfo(None, None, incrementaldecoder=lambda: codecs.getincrementaldecoder("utf-8")("substitute"), name="utf_8_marked")
codecs.register_error("substitute", lambda error: (SUBSTITUTE, error.end))
codecs.register(lambda name: MARKED if name == MARKED.name else None)


def _columns_of(header: list[str]) -> dict[str, str]:
    # which column of a table holds what, for an edge list or a papers table; {} where the header is of neither
    spelled = {column.strip().lower(): column for column in reversed(header)}
    found = {name: spelled[column] for name, aliases in COLUMNS.items() for column in reversed(aliases) if column in spelled}
    if {"citing", "cited"} <= set(found):
        return {name: found[name] for name in CITATIONS.names}
    return {name: found[name] for name in found if name in PAPERS.names} if {"paper_id", "title"} <= set(found) else {}


class Table:
    """A reader of one file with columns, of parquet where no header of a CSV is given: its SCHEMA is that of what it yields."""

    def __init__(self, file, header: str | None = None):
        self.delimiter = next((mark for mark in "\t;" if mark in header), ",") if header is not None else None
        names = next(csv.reader([header], delimiter=self.delimiter)) if self.delimiter else pa.parquet.read_schema(file.path).names
        self.file, self.names, self.columns = file, names, _columns_of(names)
        if not self.columns:
            found = in_a_line(", ".join(name[:30] for name in names[:8]))
            expected = "expected the columns citing,cited (or citing,referenced), or paper_id,title,year"
            raise DumpError(f"{file} is no citation dump of a known format: {expected}; found {found}.")
        if doubled := [column for column in self.columns.values() if names.count(column) > 1]:
            raise DumpError(f"{file} has more than one column {doubled[0]!r}; rename the others.")
        self.SCHEMA = CITATIONS if "cited" in self.columns else PAPERS

    def batches(self, stream, report: Report) -> Iterator[pa.RecordBatch]:
        """Batches of CITATIONS or PAPERS from the file's bytes."""
        rows_read = 0
        try:
            for batch in self._of_csv(stream, report) if self.delimiter else self._of_parquet():
                columns = {name: batch[column] for name, column in self.columns.items()}
                values = [pc.utf8_trim(ids, SPACES) for ids in columns.values()] if self.SCHEMA is CITATIONS else self._papers(columns)
                yield batch_of(values, self.SCHEMA, report, lambda i, before=rows_read: f"{self.file.name}, row {before + i + 1}", "no id")
                rows_read += batch.num_rows
        except pa.ArrowException as error:
            too_long = f"one of more than {BLOCK:,} bytes, perhaps for want of a closing quotation mark"
            reason = too_long if "straddl" in str(error) else error
            raise pa.ArrowInvalid(f"after row {rows_read:,}: {reason}") from error

    def _papers(self, columns: dict[str, pa.Array]) -> list:
        rows = len(columns["paper_id"])
        values = dict.fromkeys(PAPERS.names, [None] * rows) | {"year": pa.nulls(rows, pa.int32()), "cited_by": [()] * rows}
        if self.columns["paper_id"] == "pmid":
            values |= {"is_cs": [False] * rows, "is_medline": [True] * rows}
        values |= {name: column.to_pylist() for name, column in columns.items()}
        values["fields"] = [texts(some if isinstance(some, list) else (some or "").split(";")) for some in values["fields"]]
        values["references"] = [texts(some) if isinstance(some, list) else (some or "").split() for some in values["references"]]
        return list(values.values())

    def _of_csv(self, stream, report: Report) -> Iterator[pa.RecordBatch]:
        is_papers, tabs = self.SCHEMA is PAPERS, self.delimiter == "\t"
        columns = list({*self.columns.values()}) if is_papers else self.names  # of citations all: each may have a lost quotation mark
        stream, rows_read = pa.transcoding_input_stream(pa.PythonFile(stream, "r"), MARKED.name, "utf-8"), 0

        def skip(row) -> str:
            lines = 1 + row.text.count("\n")  # a quotation mark without its partner takes what follows with it
            report.drop(self.SCHEMA, "malformed", f"{self.file.name}, line {row.number}", lines)
            return "skip"

        # one thread: bad rows know their line; names as given: Arrow would keep the quotation marks of a TSV's header
        reading = pa.csv.ReadOptions(use_threads=False, block_size=BLOCK, column_names=self.names, skip_rows=1)
        parsing = pa.csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=is_papers and not tabs, invalid_row_handler=skip)
        parsing.quote_char = False if tabs else '"'  # TSV has no quoting: a title may begin with a quotation mark
        converting = pa.csv.ConvertOptions(include_columns=columns if is_papers else None, column_types=dict.fromkeys(columns, pa.string()))
        for batch in pa.csv.open_csv(stream, reading, parsing, converting):
            rows_read += batch.num_rows
            letters = [(values.buffers()[2] or pa.py_buffer(b"")).to_pybytes() for values in batch.columns]
            if any(mark in some for some in letters for mark in (b"\n", SUBSTITUTE.encode())):  # seldom
                lines = self._lines_of_bad_rows(batch)
                for i in np.flatnonzero(lines).tolist():
                    report.drop(self.SCHEMA, "malformed", f"{self.file.name}, row {rows_read - batch.num_rows + i + 1}", int(lines[i]))
                batch = batch.filter(pa.array(lines == 0))
            yield batch

    def _lines_of_bad_rows(self, batch: pa.RecordBatch) -> np.ndarray:
        # how many lines of the file each row takes that holds a SUBSTITUTE, or more ends of lines than it may; 0 for a good row
        lines, bad = np.ones(len(batch), np.int64), np.zeros(len(batch), bool)
        names = {column: name for name, column in self.columns.items()}
        for column, values in zip(batch.schema.names, batch.columns, strict=True):
            lines += (ends := pc.count_substring(values, "\n").to_numpy())
            bad |= ends > MOST_ENDS.get(names.get(column), 0)
            if column in names:
                bad |= pc.match_substring(values, SUBSTITUTE).to_numpy(zero_copy_only=False)
        return np.where(bad, lines, 0)

    def _of_parquet(self) -> Iterator[pa.RecordBatch]:
        for batch in pa.parquet.ParquetFile(self.file.path).iter_batches(BATCH_RECORDS, columns=list({*self.columns.values()})):
            yield pa.RecordBatch.from_arrays([_as_text(array) for array in batch.columns], names=batch.schema.names)


def _as_text(array: pa.Array) -> pa.Array:
    # Values as strings, lists as lists of strings; of floating point numbers the whole ones, up to where those can be told apart
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return array.cast(pa.list_(pa.string()))
    if pa.types.is_floating(array.type):
        values = array.to_numpy(zero_copy_only=False).astype(np.float64)
        whole = (np.abs(values) < 2**53) & (values == np.floor(values))
        array = pa.array(np.where(whole, values, 0).astype(np.int64), mask=~whole)
    return array.cast(pa.string())


# The ancestor's own dump (written from its description): an HDF5 file and, in the same folder, pickles of titles and S2 ids.
# `labels0`, `labels1`, ... hold row ids, `batch0`, `batch1`, ... for each of them a list of row ids: whom it cites and who cites it, not
# told apart. A pair is taken as a citation of the larger row by the smaller: each counts once, whichever end lists it, and the other end's
# mention is counted as `also listed by the cited paper`. The pickles are dicts or lists, row -> title and row -> S2 id (told apart by what
# is in them); a paper's id is its S2 id, or else its row.


class _Plain(pickle._Unpickler):  # the one written in Python: C's sets aside whatever memory a damaged file asks for
    # Plain containers, strings and numbers only: nothing is imported, so nothing can run

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _texts(path: Path) -> dict[int, str]:
    # The texts of a pickle by row
    try:
        with open(path, "rb") as file:
            values = _Plain(file).load()
        by_row = values if isinstance(values, dict) else dict(enumerate(values))
        return {int(row): kept for row, value in by_row.items() if (kept := text(value))}
    except Exception as error:  # a damaged pickle may end in any exception there is
        raise DumpError(f"{path} is not a pickle of plain dicts, lists, strings and numbers alone ({in_a_line(error)}).") from error


def of_ancestor(file, on_bytes: Callable[[int], None], report: Report) -> Iterator[pa.RecordBatch]:
    """Batches of PAPERS from an HDF5 file and the pickles beside it; on_bytes: called with the bytes of each dataset, about."""
    titles, ids = {}, {}

    def name(row: int) -> str | None:
        return ids.get(row) or str(row) if row >= 0 else None

    for path in sorted(path for path in file.path.parent.iterdir() if path.suffix.lower() in PICKLES):
        texts = _texts(path)
        are_ids = all(map(S2_ID.fullmatch, itertools.islice(texts.values(), 100)))
        (ids if are_ids else titles).update(texts)
    unknown = [None] * (len(PAPERS) - 4)
    for rows, lists in _rows(file, on_bytes):
        papers = []
        for row, others in zip(rows, lists, strict=True):
            cites, cited_by = [name(other) for other in others if other >= row], [name(other) for other in others if other < row]
            papers.append((name(row), titles.get(row), *unknown, cites, cited_by))
        yield batch_of(list(zip(*papers, strict=True)), PAPERS, report, lambda i, rows=rows: f"{file.name}, row {rows[i]}", "no id")


def _rows(file, on_bytes) -> Iterator[tuple[list[int], list[list[int]]]]:
    # (rows, what each lists), BATCH_RECORDS rows at a time
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
                    found = [others.astype(np.int64).tolist() for others in lists[first : first + BATCH_RECORDS]]
                    if rows.min(initial=0) < 0 or len(found) != len(rows):
                        raise ValueError(f"batch{part} does not belong to labels{part}")
                    yield rows.tolist(), found
                on_bytes(file.size // len(parts))
    except Exception as error:  # damage shows as any of a dozen exceptions
        raise DumpError(f"{file} is damaged or not the ancestor's ({in_a_line(error)}); download it again, or pip install h5py.") from error
