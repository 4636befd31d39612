"""What every reader yields: Arrow batches of papers or of citations, and a count of everything that was not clean."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
import pyarrow as pa

from helpers.errors import DumpError

BATCH_RECORDS = 20_000  # records a batch: large enough for Arrow's speed, about 20 MB of text
YEAR = re.compile(r"\s*(\d{4})(\.0)?\s*", re.ASCII)
BAD_LINE = (msgspec.MsgspecError, ValueError, TypeError, RecursionError)
BLANK = b" \t\r\n,[]"  # what stands between the records of a JSON array, one a line
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
OTHER_IDS = pa.schema([("other_id", pa.string()), ("paper_id", pa.string())])  # two ids of one paper; the second is the dump's own


class JsonFormat(NamedTuple):
    """A reader of JSON lines, where a module holds several; a module with these four names is one too."""

    SCHEMA: pa.Schema
    Record: type[msgspec.Struct]  # the fields wanted of a line; all others are passed over
    recognises: Callable[[dict], bool]  # whether a file with such a record is of this format
    row: Callable[[msgspec.Struct], tuple]  # the values of SCHEMA, in its order, years as they come; ValueError where the line is malformed


def kind_of(schema: pa.Schema) -> str:
    """What a report calls the records of a schema."""
    return "papers" if schema is PAPERS else "citations" if schema is CITATIONS else "ids"


class Report:
    """Counts of records read and dropped and of fields missing, by reason, with the place of the first of each."""

    def __init__(self):
        self.read = Counter()  # "papers", "citations", "ids" (other ids of papers), and "records": lines of any kind
        self.dropped = {"papers": Counter(), "citations": Counter(), "ids": Counter()}  # reason -> records
        self.incomplete = Counter()  # reason -> records kept without a field
        self.first = {}  # reason -> "file, line n"

    def add(self, other: "Report") -> None:
        """Add the counts of another report; where both name the first place of a reason, this one's stays."""
        for mine, others in (
            (self.read, other.read),
            (self.incomplete, other.incomplete),
            *zip(self.dropped.values(), other.dropped.values(), strict=True),
        ):
            mine.update(others)
        self.first = {**other.first, **self.first}

    def count(self, kind: str, records: int = 1) -> None:
        """Count records read of "papers", "citations" or "ids", whether good or bad."""
        self.read[kind] += records
        self.read["records"] += records

    def drop(self, kind: str, reason: str, place: str) -> None:
        """Count one dropped record of "papers", "citations" or "ids"; `place` (file and line) is kept for the first of its reason."""
        self.dropped[kind][reason] += 1
        self.first.setdefault(reason, place)

    def lacks(self, reason: str, place: str) -> None:
        """Count one record that is kept without a bad field."""
        self.incomplete[reason] += 1
        self.first.setdefault(reason, place)

    def check(self, file, max_bad_fraction: float) -> None:
        """Raise DumpError where more than `max_bad_fraction` of all records read so far were malformed."""
        bad, read = sum(dropped["malformed"] for dropped in self.dropped.values()), self.read["records"]
        if bad > max_bad_fraction * max(read, 1):
            raise DumpError(
                f"{file}: {bad:,} of {read:,} records are malformed (first: {self.first['malformed']}), more than the "
                f"{max_bad_fraction:.0%} allowed; repair the file, or raise max_bad_fraction to go on without them."
            )


def text(value) -> str | None:
    """A string field as it is kept: white space collapsed, NULs and halves of characters removed; None for anything else or empty."""
    if not isinstance(value, str):
        return None
    if not value.isascii():
        value = value.encode("utf-8", "ignore").decode()
    return " ".join(value.replace("\0", " ").split()) or None


def identifier(value) -> str | None:
    """An id, which some dumps write as a string and some as a number; None for anything else or empty."""
    return str(value) if type(value) is int else text(value)


def mapping(value) -> dict:
    """An object field; {} where it is missing or of another type."""
    return value if isinstance(value, dict) else {}


def named(value, key: str) -> list[str]:
    """What the objects of a list field have under `key`, each text once; [] where the field is missing or of another type."""
    entries = value if isinstance(value, list) else []
    return list(dict.fromkeys(filter(None, (text(mapping(entry).get(key)) for entry in entries))))


def texts(value) -> list[str]:
    """The non-empty strings of a list field, stripped; [] where the field is missing or of another type."""
    if not isinstance(value, list):
        return []
    return [entry for entry in map(text, value) if entry]


def year(value, report: Report, place: str) -> int | None:
    """A publication year, from 1998, "1998" or "1998.0"; None, and counted, where it is missing or not in YEARS."""
    if type(value) is int and value in YEARS:
        return value
    if value in (None, ""):
        report.lacks("no year", place)
        return None
    match = YEAR.fullmatch(str(value)[:64])
    if match and int(match[1]) in YEARS:
        return int(match[1])
    report.lacks("impossible year", place)
    return None


def json_batches(lines: Iterator[tuple[int, bytes | None]], file, reader, report: Report) -> Iterator[pa.RecordBatch]:
    """Batches of reader.SCHEMA from numbered lines of JSON, None being a line too long to be a record.

    The reader is a JsonFormat, or a module like one; where its `row` raises ValueError the line is dropped as malformed.
    """
    decode, kind = msgspec.json.Decoder(reader.Record).decode, kind_of(reader.SCHEMA)
    rows, numbers = [], []
    for number, line in lines:
        try:
            rows.append(reader.row(decode(line)))
        except BAD_LINE:
            bare = b"?" if line is None else line.strip(BLANK)
            if not bare:
                continue
            try:
                rows.append(reader.row(decode(bare)))
            except BAD_LINE:
                report.count(kind)
                report.drop(kind, "malformed", f"{file.name}, line {number}")
                continue
        numbers.append(number)
        if len(rows) == BATCH_RECORDS:
            yield _batch(rows, numbers, file, reader.SCHEMA, report)
            rows, numbers = [], []
    yield _batch(rows, numbers, file, reader.SCHEMA, report)


def _batch(rows: list[tuple], numbers: list[int], file, schema: pa.Schema, report: Report) -> pa.RecordBatch:
    columns = dict(zip(schema.names, zip(*rows, strict=True) if rows else [()] * len(schema), strict=True))
    report.count(kind_of(schema), len(rows))
    if schema is PAPERS:
        years, titles = columns["year"], columns["title"]
        columns["year"] = [year(value, report, f"{file.name}, line {number}") for value, number in zip(years, numbers, strict=True)]
        for title, number in zip(titles, numbers, strict=True):
            if title is None:
                report.lacks("no title", f"{file.name}, line {number}")
    return pa.RecordBatch.from_arrays([_array(columns[field.name], field.type) for field in schema], schema=schema)


def _array(values, kind: pa.DataType) -> pa.Array:
    """Values as an Arrow array; what is not of the kind, or not UTF-8, is left out of lists or made null."""
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, UnicodeError, OverflowError, TypeError):
        if pa.types.is_list(kind):
            return pa.array([texts(value) for value in values], kind)
        return pa.array([text(value) for value in values], kind)
