"""What every reader yields: Arrow batches of papers or of citations, and a count of everything that was not clean."""

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from helpers.errors import DumpError

BATCH_BYTES = 1 << 27  # bytes of JSON lines a batch: long lines make smaller batches
BATCH_RECORDS = 20_000  # records a batch: large enough for Arrow's speed, about 20 MB of text
YEAR = re.compile(r"\s*(\d{4})(\.0)?\s*", re.ASCII)
BAD_LINE = (msgspec.MsgspecError, ValueError, TypeError, RecursionError)
BLANK = b" \t\r\n,[]"  # what stands between the records of a JSON array, one a line
NO_IDS = msgspec.Raw(b"[]")
FIRST_YEAR, LAST_YEAR = 1500, 2100  # a year outside is a typing error ("20011") and becomes missing

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
ID_LISTS = ("references", "cited_by")
CITATIONS = pa.schema([("citing", pa.string()), ("cited", pa.string())])
OTHER_IDS = pa.schema([("other_id", pa.string()), ("paper_id", pa.string())])  # two ids of one paper; the second is the dump's own


class JsonFormat(NamedTuple):
    """A reader of JSON lines, where a module holds several; a module with these four names is one too."""

    SCHEMA: pa.Schema
    Record: type[msgspec.Struct]  # the fields wanted of a line; all others are passed over
    recognises: Callable[[dict], bool]  # whether a file with such a record is of this format
    row: Callable[
        [msgspec.Struct], tuple
    ]  # the values of SCHEMA, in its order, years as they come, texts not yet tidied; ValueError: malformed


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

    def drop(self, kind: str, reason: str, place: str, records: int = 1) -> None:
        """Count dropped records of "papers" or "citations"; `place` (file and line) is kept for the first of its reason."""
        self.dropped[kind][reason] += records
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
    """A publication year, from 1998, "1998" or "1998.0"; None, and counted, where it is missing or impossible."""
    if value in (None, ""):
        report.lacks("no year", place)
        return None
    value = str(value) if type(value) is float else value
    match = YEAR.fullmatch(value) if isinstance(value, str) else None
    if match and FIRST_YEAR <= int(match[1]) <= LAST_YEAR:
        return int(match[1])
    report.lacks("impossible year", place)
    return None


def json_batches(blocks: Iterator[tuple[int, int, bytes | None]], file, reader, report: Report) -> Iterator[pa.RecordBatch]:
    """Batches of reader.SCHEMA from blocks of lines of JSON: number of the first, how many, bytes (None: a line too long to be a record).

    The reader is a JsonFormat, or a module like one; where its `row` raises ValueError the line is dropped as malformed.
    """
    decoder, kind = msgspec.json.Decoder(reader.Record), kind_of(reader.SCHEMA)

    def row_of(line: bytes, number: int) -> tuple | None:
        """The row of one line, None for a blank or a malformed one; the records of a JSON array have commas around them."""
        for form in (line, line.strip(BLANK)):
            with contextlib.suppress(*BAD_LINE):
                row = reader.row(decoder.decode(form))
                for value in row:
                    if type(value) is msgspec.Raw:
                        msgspec.json.decode(value)
                return row
        if form:
            report.count(kind)
            report.drop(kind, "malformed", f"{file.name}, line {number}")

    numbers, columns, size = [], [[] for _ in reader.SCHEMA], 0
    for first, count, block in blocks:
        try:  # nearly always: a record a line
            rows = [reader.row(record) for record in decoder.decode_lines(block)]
            if len(rows) != count:
                raise ValueError
            values, found = _columns(rows, reader.SCHEMA), range(first, first + count)
        except (*BAD_LINE, AttributeError):
            lines = enumerate([b"?"] if block is None else block.split(b"\n"), start=first)
            kept = [(row, i) for i, line in lines if (row := row_of(line, i))]
            values, found = _columns([row for row, _ in kept], reader.SCHEMA), [i for _, i in kept]
        numbers.extend(found)
        size += len(block or b"")
        for column, some in zip(columns, values, strict=False):
            column.extend(some)
        if len(numbers) >= BATCH_RECORDS or size > BATCH_BYTES:
            yield _batch(columns, numbers, file, reader.SCHEMA, report)
            numbers, columns, size = [], [[] for _ in reader.SCHEMA], 0
    yield _batch(columns, numbers, file, reader.SCHEMA, report)


def _columns(rows: list[tuple], schema: pa.Schema) -> list:
    """The columns of some rows: tuples of values, and of lists of ids one Arrow array."""
    columns = zip(schema.names, zip(*rows, strict=True), strict=False)
    return [(_id_lists(values),) if name in ID_LISTS else values for name, values in columns]


def _id_lists(values: tuple) -> pa.Array:
    """Lists of ids, in Python or in JSON; what is not a string is left out. Raises BAD_LINE where one is not JSON."""
    if type(values[0]) is msgspec.Raw:
        text = b"\n".join((*values, b""))
        lists, ids, letters = (
            np.zeros(len(values) + 1, np.int32),
            np.zeros(text.count(b'"') // 2 + 1, np.int32),
            np.empty(len(text), np.uint8),
        )
        if text.isascii() and b"\\" not in text and _split(np.frombuffer(text, np.uint8), lists, ids, letters):
            ids = pa.StringArray.from_buffers(len(ids) - 1, pa.py_buffer(ids), pa.py_buffer(letters))
            return pa.ListArray.from_arrays(pa.array(lists), ids)
        values = [value if isinstance(value, list) else () for value in map(msgspec.json.decode, values)]
    return _array(values, pa.list_(pa.string()))


@numba.njit(cache=True, nogil=True)
def _split(text, lists, ids, letters):
    """Split lists in JSON, one a line, into their strings, which hold no escapes; returns whether there was nothing else."""
    line = count = place = p = 0
    listed = False
    while p < len(text):
        letter = text[p]
        if letter == 34 and listed:  # a quotation mark
            p += 1
            while text[p] != 34:
                letters[place] = text[p]
                place += 1
                p += 1
            count += 1
            ids[count] = place
        elif letter == 10:
            line += 1
            lists[line] = count
        elif (letter == 91 and not listed) or (letter == 93 and listed):  # [ and ]
            listed = not listed
        elif not (listed and (letter == 44 or letter == 32)):  # comma and space between two
            return False
        p += 1
    return True


def _batch(columns: list[list], numbers: list[int], file, schema: pa.Schema, report: Report) -> pa.RecordBatch:
    columns = dict(zip(schema.names, columns, strict=True))
    report.count(kind_of(schema), len(numbers))
    arrays = {name: _array(values, schema.field(name).type) for name, values in columns.items() if name not in ("year", *ID_LISTS)}
    if schema is PAPERS:

        def place(i):
            return f"{file.name}, line {numbers[i]}"

        years = [v if type(v) is int and FIRST_YEAR <= v <= LAST_YEAR else year(v, report, place(i)) for i, v in enumerate(columns["year"])]
        arrays["year"] = pa.array(years, pa.int32())
        for name in ID_LISTS:
            arrays[name] = pa.concat_arrays(columns[name]) if columns[name] else pa.array([], pa.list_(pa.string()))
        for i in np.flatnonzero(arrays["title"].is_null()):
            report.lacks("no title", place(i))
    batch = pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)
    if schema is PAPERS and batch["paper_id"].null_count:  # ids of blanks alone
        missing = np.flatnonzero(batch["paper_id"].is_null())
        for i in missing:
            report.drop("papers", "malformed", place(i))
        batch = batch.filter(batch["paper_id"].is_valid())
    return batch


@numba.njit(cache=True, nogil=True)
def _untidy(offsets, text):
    """Places of the texts that are empty, or hold more than ASCII words with a space between them (or letters of other alphabets)."""
    found = np.empty(len(offsets) - 1, np.int64)
    count = 0
    for i in range(len(offsets) - 1):
        first, last, before, tidy = offsets[i], offsets[i + 1], np.uint8(32), True
        for p in range(first, last):
            letter = text[p]
            if letter < 32 or letter == 127 or (letter == 32 and before == 32) or letter == 0xC2 or 0xE1 <= letter <= 0xE3:
                tidy = False  # controls, doubled spaces; in UTF-8 all other white space begins with C2, E1, E2 or E3
                break
            before = letter
        if not tidy or before == 32:
            found[count] = i
            count += 1
    return found[:count]


def _tidied(values: pa.Array) -> pa.Array:
    """The strings as `text` keeps them."""
    if not len(values) or not values.buffers()[2]:
        return values
    offsets = np.frombuffer(values.buffers()[1], np.int32)[: len(values) + 1]
    untidy = _untidy(offsets, np.frombuffer(values.buffers()[2], np.uint8))
    if not len(untidy):
        return values
    mask = np.zeros(len(values), bool)
    mask[untidy] = True
    return pc.replace_with_mask(
        values, pa.array(mask), pa.array([text(value) for value in values.take(pa.array(untidy)).to_pylist()], pa.string())
    )


def _array(values, kind: pa.DataType) -> pa.Array:
    """Values as an Arrow array; what is not of the kind, or not UTF-8, is left out of lists or made null."""
    try:
        array = pa.array(values, kind)
        return _tidied(array) if kind == pa.string() else array
    except (pa.ArrowException, UnicodeError, OverflowError, TypeError):
        if pa.types.is_list(kind):
            return pa.array([texts(value) for value in values], kind)
        return pa.array([text(value) for value in values], kind)
