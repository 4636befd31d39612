"""Tables, told apart by their header, as CSV, TSV (.gz or not) or parquet."""

# An edge list `citing,cited`, or NIH's Open Citation Collection `citing,referenced`; a papers table `id` or `paper_id`, `title`, `year`,
# perhaps `venue`, `fields`, `doi`, `pmid`; or NIH's `icite_metadata.csv` (`pmid`, `journal`, ...).

import codecs
import csv
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from helpers.corpus.records import BATCH_RECORDS, CITATIONS, PAPERS, SPACES, Report, batch_of, texts
from helpers.errors import DumpError, in_a_line

# What a batch calls a column -> what tables call it
COLUMNS = {name: (name,) for name in ("citing", "title", "year", "fields", "doi", "pmid", "references")}
COLUMNS |= {"cited": ("cited", "referenced"), "paper_id": ("paper_id", "id", "pmid"), "venue": ("venue", "journal")}
BLOCK = 1 << 22  # bytes of a CSV parsed at a time; no row may be longer
MOST_ENDS = {"title": 20, "venue": 20}  # ends of lines within a value: more are what a lost quotation mark takes along
# Arrow hands malformed rows over as text, and fails where that is no UTF-8: so it is decoded before
SUBSTITUTE = "\x1a"  # ASCII's own sign for a character that is none, which stands for bytes that are no UTF-8 where MARKED is decoded
MARKED = codecs.CodecInfo(None, None, incrementaldecoder=lambda: codecs.getincrementaldecoder("utf-8")("substitute"), name="utf_8_marked")
codecs.register_error("substitute", lambda error: (SUBSTITUTE, error.end))
codecs.register(lambda name: MARKED if name == MARKED.name else None)


class Table:
    """A reader of one file with columns, of parquet where no header of a CSV is given: its SCHEMA is that of what it yields."""

    def __init__(self, file, header: str | None = None):
        self.delimiter = next((mark for mark in "\t;" if mark in header), ",") if header is not None else None
        names = next(csv.reader([header], delimiter=self.delimiter)) if self.delimiter else pa.parquet.read_schema(file.path).names
        spelled = {column.strip().lower(): column for column in reversed(names)}
        holds = {name: spelled[column] for name, aliases in COLUMNS.items() for column in reversed(aliases) if column in spelled}
        self.SCHEMA = CITATIONS if {"citing", "cited"} <= set(holds) else PAPERS
        self.columns = {name: holds[name] for name in self.SCHEMA.names if name in holds}  # which column of the table holds what
        self.file, self.names = file, names
        if self.SCHEMA is PAPERS and not {"paper_id", "title"} <= set(holds):
            found = in_a_line(", ".join(name[:30] for name in names[:8]))
            expected = "expected the columns citing,cited (or citing,referenced), or paper_id,title,year"
            raise DumpError(f"{file} is no citation dump of a known format: {expected}; found {found}.")
        if doubled := [column for column in self.columns.values() if names.count(column) > 1]:
            raise DumpError(f"{file} has more than one column {doubled[0]!r}; rename the others.")

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
