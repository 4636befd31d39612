"""Tables, told apart by their header, as CSV, TSV (.gz or not) or parquet:

- an edge list `citing,cited`, or NIH's Open Citation Collection `citing,referenced`;
- a papers table `id` or `paper_id`, `title`, `year`, perhaps `venue`, `fields`; or NIH's `icite_metadata.csv` (`pmid`, `journal`, ...).
"""

import csv
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from helpers.corpus.records import BATCH_RECORDS, CITATIONS, PAPERS, Report, text, year
from helpers.errors import DumpError

COLUMNS = {  # what a batch calls it -> what tables call it
    "citing": ("citing",),
    "cited": ("cited", "referenced"),
    "paper_id": ("paper_id", "id", "pmid"),
    "title": ("title",),
    "year": ("year",),
    "venue": ("venue", "journal"),
    "fields": ("fields",),
    "references": ("references",),
}


def columns_of(header: list[str]) -> dict[str, str]:
    """Which column of a table holds what, for an edge list or a papers table; {} where the header is of neither."""
    spelled = {column.strip().lower(): column for column in reversed(header)}
    found = {name: next((spelled[column] for column in aliases if column in spelled), None) for name, aliases in COLUMNS.items()}
    wanted = ("citing", "cited") if found["citing"] and found["cited"] else ("paper_id", "title", "year", "venue", "fields", "references")
    chosen = {name: found[name] for name in wanted if found[name]}
    return chosen if "cited" in chosen or {"paper_id", "title"} <= set(chosen) else {}


class Table:
    """A reader of one file with columns: its SCHEMA is that of what it yields."""

    def __init__(self, file, names: list[str]):
        self.file, self.columns = file, columns_of(names)
        if not self.columns:
            found = (
                f"found {', '.join(names[:8])}; rename the columns"
                if len(names) > 1 and names[0].isprintable()
                else "this is no citation dump of a known format"
            )
            raise DumpError(f"{file}: expected the columns citing,cited (or citing,referenced), or paper_id,title,year; {found}.")
        self.SCHEMA = CITATIONS if "cited" in self.columns else PAPERS

    def batches(self, stream, report: Report) -> Iterator[pa.RecordBatch]:
        """Batches of CITATIONS or PAPERS from the file's bytes."""
        rows_read = 0
        for batch in self.raw_batches(stream, report):
            make = _citations if self.SCHEMA is CITATIONS else _papers
            yield make(batch, self.columns, report, lambda i, before=rows_read: f"{self.file.name}, row {before + i + 1}")
            rows_read += batch.num_rows


class Csv(Table):
    """CSV or TSV, told by what stands in the header."""

    def __init__(self, file, header: str):
        self.delimiter = next((mark for mark in "\t;" if mark in header), ",")
        super().__init__(file, next(csv.reader([header], delimiter=self.delimiter)))

    def raw_batches(self, stream, report: Report) -> Iterator[pa.RecordBatch]:
        """Batches of strings."""
        kind, tabs, columns = "citations" if self.SCHEMA is CITATIONS else "papers", self.delimiter == "\t", list(self.columns.values())

        def skip(row) -> str:
            report.count(kind)
            report.drop(kind, "malformed", f"{self.file.name}, line {row.number}")
            return "skip"

        yield from pa.csv.open_csv(
            stream,
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=1 << 22),  # one thread: bad rows know their line
            parse_options=pa.csv.ParseOptions(
                delimiter=self.delimiter,
                quote_char=False if tabs else '"',  # TSV has no quoting: a title may begin with a quotation mark
                newlines_in_values=kind == "papers" and not tabs,
                invalid_row_handler=skip,
            ),
            convert_options=pa.csv.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.string())),
        )


class Parquet(Table):
    """A parquet file, read from its path."""

    def __init__(self, file):
        super().__init__(file, pa.parquet.read_schema(file.path).names)

    def raw_batches(self, stream, report: Report) -> Iterator[pa.RecordBatch]:
        """Batches of strings, and lists of them."""
        for batch in pa.parquet.ParquetFile(self.file.path).iter_batches(BATCH_RECORDS, columns=list(self.columns.values())):
            arrays = [array if pa.types.is_list(array.type) else array.cast(pa.string()) for array in batch.columns]
            yield pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _trimmed(batch: pa.RecordBatch, column: str) -> pa.Array:
    return pc.utf8_trim_whitespace(batch.column(column))


def _citations(batch: pa.RecordBatch, columns: dict[str, str], report: Report, place: Callable[[int], str]) -> pa.RecordBatch:
    pairs = pa.RecordBatch.from_arrays([_trimmed(batch, columns["citing"]), _trimmed(batch, columns["cited"])], schema=CITATIONS)
    whole = pc.and_(pc.not_equal(pc.fill_null(pairs["citing"], ""), ""), pc.not_equal(pc.fill_null(pairs["cited"], ""), ""))
    report.count("citations", batch.num_rows)
    for i in np.flatnonzero(~whole.to_numpy(zero_copy_only=False)):
        report.drop("citations", "no id", place(i))
    return pairs.filter(whole)


def _papers(batch: pa.RecordBatch, columns: dict[str, str], report: Report, place: Callable[[int], str]) -> pa.RecordBatch:
    values = {name: batch.column(column).to_pylist() for name, column in columns.items()}
    is_medline = True if columns["paper_id"] == "pmid" else None
    rows = []
    for i in range(batch.num_rows):
        report.count("papers")
        paper_id = text(values["paper_id"][i])
        if paper_id is None:
            report.drop("papers", "no id", place(i))
            continue
        title, fields = text(_unquoted(values["title"][i])), values.get("fields", {i: None})[i]
        if title is None:
            report.lacks("no title", place(i))
        rows.append(
            {
                "paper_id": paper_id,
                "title": title,
                "year": year(values["year"][i], report, place(i)) if "year" in values else None,
                "venue": text(values["venue"][i]) if "venue" in values else None,
                "fields": fields if isinstance(fields, list) else [field.strip() for field in (fields or "").split(";") if field.strip()],
                "is_cs": None if is_medline is None else False,
                "is_medline": is_medline,
                "references": (values["references"][i] or "").split() if "references" in values else [],
                "cited_by": [],
            }
        )
    return pa.RecordBatch.from_pylist(rows, PAPERS)


def _unquoted(title):
    """A title without the quotation marks that some writers put around a TSV field."""
    return title[1:-1].replace('""', '"') if isinstance(title, str) and len(title) > 1 and title[0] == title[-1] == '"' else title
