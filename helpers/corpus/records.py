"""What every reader yields: Arrow batches of papers or of citations, and a count of everything that was not clean."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from helpers.errors import DumpError

BATCH_RECORDS = 20_000  # records a batch: large enough for Arrow's speed, about 20 MB of text
YEAR = re.compile(r"\s*(\d{4})(\.0)?\s*", re.ASCII)
YEARS = range(1500, 2101)  # a year outside is a typing error ("20011") and becomes missing

PAPERS = pa.schema(
    [
        ("paper_id", pa.string()),
        ("title", pa.string()),
        ("year", pa.int32()),
        ("venue", pa.string()),
        ("fields", pa.list_(pa.string())),
        ("is_cs", pa.bool_()),  # null: the dump does not say
        ("is_medline", pa.bool_()),
        ("references", pa.list_(pa.string())),  # the papers that this one cites
        ("cited_by", pa.list_(pa.string())),  # the papers that cite this one, in dumps that list both
    ]
)
CITATIONS = pa.schema([("citing", pa.string()), ("cited", pa.string())])


class Report:
    """Counts of records read and dropped and of fields missing, by reason, with the place of the first of each."""

    def __init__(self):
        self.read = Counter()  # "papers", "citations", and "records": lines of either kind
        self.dropped = {"papers": Counter(), "citations": Counter()}  # reason -> records
        self.incomplete = Counter()  # reason -> records kept without a field
        self.first = {}  # reason -> "file, line n"

    def count(self, kind: str, records: int = 1) -> None:
        """Count records read of "papers" or "citations", whether good or bad."""
        self.read[kind] += records
        self.read["records"] += records

    def drop(self, kind: str, reason: str, place: str) -> None:
        """Count one dropped record of "papers" or "citations"; `place` (file and line) is kept for the first of its reason."""
        self.dropped[kind][reason] += 1
        self.first.setdefault(reason, place)

    def lacks(self, reason: str, place: str) -> None:
        """Count one record that is kept without a bad field."""
        self.incomplete[reason] += 1
        self.first.setdefault(reason, place)

    def check(self, path: Path, max_bad_fraction: float) -> None:
        """Raise DumpError where more than `max_bad_fraction` of all records read so far were malformed."""
        bad, read = sum(dropped["malformed"] for dropped in self.dropped.values()), self.read["records"]
        if bad > max_bad_fraction * max(read, 1):
            raise DumpError(
                f"{path}: {bad:,} of {read:,} records are malformed (first: {self.first['malformed']}), more than the "
                f"{max_bad_fraction:.0%} allowed; repair the file, or raise max_bad_fraction to go on without them."
            )


def text(value) -> str | None:
    """A string field as it should be kept: white space collapsed, NULs removed; None for anything empty or not a string."""
    if not isinstance(value, str):
        return None
    return " ".join(value.replace("\0", " ").split()) or None


def texts(value) -> list[str]:
    """The non-empty strings of a list field, stripped; [] where the field is missing or of another type."""
    if not isinstance(value, list):
        return []
    return [entry.strip() for entry in value if isinstance(entry, str) and entry.strip()]


def year(value, report: Report, place: str) -> int | None:
    """A publication year, from 1998, "1998" or "1998.0"; None, and counted, where it is missing or not in YEARS."""
    if value in (None, ""):
        report.lacks("no year", place)
        return None
    match = YEAR.fullmatch(str(value))
    if match and int(match[1]) in YEARS:
        return int(match[1])
    report.lacks("impossible year", place)
    return None


def paper_batches(lines: Iterator[tuple[int, bytes]], path: Path, parse: Callable, report: Report) -> Iterator[pa.RecordBatch]:
    """Batches of PAPERS from numbered lines.

    `parse(line, place, report)` makes a line a row; where it raises ValueError the line is dropped as malformed.
    """
    rows = []
    for number, line in lines:
        if not line.strip():
            continue
        report.count("papers")
        place = f"{path.name}, line {number}"
        try:
            row = parse(line, place, report)
        except ValueError:
            report.drop("papers", "malformed", place)
            continue
        if row["title"] is None:
            report.lacks("no title", place)
        rows.append(row)
        if len(rows) == BATCH_RECORDS:
            yield pa.RecordBatch.from_pylist(rows, PAPERS)
            rows = []
    yield pa.RecordBatch.from_pylist(rows, PAPERS)
