"""Tables, told apart by their header, as CSV, TSV (.gz or not) or parquet:

- an edge list `citing,cited`, or NIH's Open Citation Collection `citing,referenced`;
- a papers table `id` or `paper_id`, `title`, `year`, perhaps `venue`, `fields`; or NIH's `icite_metadata.csv` (`pmid`, `journal`, ...).
"""

from collections.abc import Iterator
from pathlib import Path

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
    found = {name: next((column for column in aliases if column in header), None) for name, aliases in COLUMNS.items()}
    wanted = ("citing", "cited") if found["citing"] and found["cited"] else ("paper_id", "title", "year", "venue", "fields", "references")
    chosen = {name: found[name] for name in wanted if found[name]}
    return chosen if "cited" in chosen or {"paper_id", "title"} <= set(chosen) else {}


def read(path: Path, open_file, header: list[str] | None, report: Report) -> Iterator[pa.RecordBatch]:
    """Batches of CITATIONS or PAPERS from a table; `header` None means parquet. Raises DumpError where the header is of neither kind."""
    columns = columns_of(header if header is not None else pa.parquet.read_schema(path).names)
    if not columns:
        raise DumpError(
            f"{path}: expected the columns citing,cited (or citing,referenced) or a papers table with paper_id,title,year; "
            f"found {', '.join((header or pa.parquet.read_schema(path).names)[:8])}; rename the columns."
        )
    batches = _parquet(path, columns) if header is None else _csv(path, open_file, header, columns, report)
    rows_read = 0
    for batch in batches:
        make = _citations if "cited" in columns else _papers
        yield make(batch, columns, report, f"{path.name}, row {rows_read + 1} or later")
        rows_read += batch.num_rows


def _csv(path: Path, open_file, header: list[str], columns: dict[str, str], report: Report) -> Iterator[pa.RecordBatch]:
    kind = "citations" if "cited" in columns else "papers"

    def skip(row) -> str:
        report.count(kind)
        report.drop(kind, "malformed", f"{path.name}, line {row.number}")
        return "skip"

    tabs = len(header) > 1 and "\t" in _first_line(open_file)
    with open_file() as file:
        reader = pa.csv.open_csv(
            file,
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=1 << 22),  # one thread: bad rows know their line
            parse_options=pa.csv.ParseOptions(
                delimiter="\t" if tabs else ",",
                quote_char=False if tabs else '"',  # TSV has no quoting: a title may begin with a quotation mark
                newlines_in_values=kind == "papers" and not tabs,
                invalid_row_handler=skip,
            ),
            convert_options=pa.csv.ConvertOptions(
                include_columns=list(columns.values()), column_types={column: pa.string() for column in columns.values()}
            ),
        )
        yield from reader


def _first_line(open_file) -> str:
    with open_file() as file:
        return file.readline().decode("utf-8", errors="replace")


def _parquet(path: Path, columns: dict[str, str]) -> Iterator[pa.RecordBatch]:
    for batch in pa.parquet.ParquetFile(path).iter_batches(BATCH_RECORDS, columns=list(columns.values())):
        arrays = [array if pa.types.is_list(array.type) else array.cast(pa.string()) for array in batch.columns]
        yield pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _trimmed(batch: pa.RecordBatch, column: str) -> pa.Array:
    return pc.utf8_trim_whitespace(batch.column(column))


def _citations(batch: pa.RecordBatch, columns: dict[str, str], report: Report, place: str) -> pa.RecordBatch:
    pairs = pa.RecordBatch.from_arrays([_trimmed(batch, columns["citing"]), _trimmed(batch, columns["cited"])], schema=CITATIONS)
    whole = pc.and_(pc.not_equal(pc.fill_null(pairs["citing"], ""), ""), pc.not_equal(pc.fill_null(pairs["cited"], ""), ""))
    report.count("citations", batch.num_rows)
    for _ in range(batch.num_rows - pc.sum(whole).as_py() if batch.num_rows else 0):
        report.drop("citations", "no id", place)
    return pairs.filter(whole)


def _papers(batch: pa.RecordBatch, columns: dict[str, str], report: Report, place: str) -> pa.RecordBatch:
    values = {name: batch.column(column).to_pylist() for name, column in columns.items()}
    is_medline = True if columns["paper_id"] == "pmid" else None
    rows = []
    for i in range(batch.num_rows):
        report.count("papers")
        paper_id = text(values["paper_id"][i])
        if paper_id is None:
            report.drop("papers", "no id", place)
            continue
        title, fields = text(_unquoted(values["title"][i])), values.get("fields", {i: None})[i]
        if title is None:
            report.repair("no title", place)
        rows.append(
            {
                "paper_id": paper_id,
                "title": title,
                "year": year(values["year"][i], report, place) if "year" in values else None,
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
