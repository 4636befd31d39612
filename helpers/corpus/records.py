"""What every reader yields: Arrow batches of papers or of citations, and a count of everything that was not clean."""

import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from helpers.errors import DumpError

SPACE, DELETE = 32, 127  # ASCII's codes up to the one, and from the other, are no letters
BATCH_RECORDS = 10_000  # records a batch: large enough for Arrow's speed, some 20 MB of Python's objects
YEAR = re.compile(r"\s*(\d{4})(\.0)?\s*", re.ASCII)
SPACES = "".join(mark for mark in map(chr, range(1 << 14)) if mark <= " " or mark.isspace())  # no part of an id at its ends
UNTIDY = r"^$|^ | $|  |[\x00-\x1f\x7f-\x{bf}\x{1000}-\x{3fff}]"  # matches every text that `text` changes, and few others
BARE = {  # what may stand around an identifier, which is lost, and the form of what is left, in lower case; others become null
    "doi": (r"^(https?://(dx\.)?doi\.org/|doi: ?)", r"^10\.[^/]+/."),
    "pmid": (r"^.*[/:] ?\b|(v\d+|\.0|/)$", r"^[1-9][0-9]*$"),
}
FIRST_YEAR, LAST_YEAR = 1500, 2100  # a year outside is a typing error ("20011") and becomes missing

TEXT, TEXTS = pa.string(), pa.list_(pa.string())
KEPT = pa.schema({"paper_id": TEXT, "title": TEXT, "year": pa.int32(), "venue": TEXT, "fields": TEXTS, "doi": TEXT, "pmid": TEXT})
OTHER_ENDS = ("references", "cited_by")  # the papers that a paper cites; those that cite it, in dumps that list both
# is_cs, is_medline: null where the dump does not say
PAPERS = pa.schema([*KEPT, ("is_cs", pa.bool_()), ("is_medline", pa.bool_()), *((name, TEXTS) for name in OTHER_ENDS)])
CITATIONS = pa.schema({"citing": TEXT, "cited": TEXT})
OTHER_IDS = pa.schema({"other_id": TEXT, "paper_id": TEXT})  # two ids of one paper; the second is the dump's own
KINDS = {"paper_id": "papers", "citing": "citations", "other_id": "ids"}  # by its first column, what a report calls a schema's records


class Report:
    """Counts of records read and dropped and of fields missing, by reason, with the place of the first of each."""

    def __init__(self):
        self.read = Counter()  # "papers", "citations", "ids" (other ids of papers), and "records": lines of any kind
        self.dropped = {kind: Counter() for kind in KINDS.values()}  # reason -> records
        self.incomplete = Counter()  # reason -> records kept without a field
        self.first = {}  # reason -> "file, line n"

    def add(self, counts: dict) -> None:
        """Add the counts of another report, its `vars`; where both name the first place of a reason, this one's stays."""
        self.read.update(counts["read"])
        self.incomplete.update(counts["incomplete"])
        for kind, dropped in counts["dropped"].items():
            self.dropped[kind].update(dropped)
        self.first = {**counts["first"], **self.first}

    def count(self, schema: pa.Schema, records: int) -> None:
        """Count records that are read, whether good or bad."""
        self.read.update({KINDS[schema.names[0]]: records, "records": records})

    def drop(self, schema: pa.Schema, reason: str, place: str, records: int = 1) -> None:
        """Count records that are read but not kept; `place` (file and line) is kept for the first of its reason."""
        self.count(schema, records)
        self.dropped[KINDS[schema.names[0]]][reason] += records
        self.first.setdefault(reason, place)

    def lacks(self, reason: str, place: str) -> None:
        """Count one record that is kept without a bad field."""
        self.incomplete[reason] += 1
        self.first.setdefault(reason, place)

    def check(self, file, max_bad_fraction: float) -> None:
        """Raise DumpError where more than `max_bad_fraction` of all records read so far were malformed."""
        bad, read = sum(dropped["malformed"] for dropped in self.dropped.values()), self.read["records"]
        if bad > max_bad_fraction * max(read, 1):
            found = f"{bad:,} of {read:,} records are malformed (first: {self.first['malformed']})"
            todo = "repair the file, or raise max_bad_fraction to go on without them"
            raise DumpError(f"{file}: {found}, more than the {max_bad_fraction:.0%} allowed; {todo}.")


def text(value) -> str | None:
    """A string field as it is kept: white space collapsed, NULs and halves of characters removed; None for anything else or empty."""
    if not isinstance(value, str):
        return None
    if not value.isascii():
        value = value.encode("utf-8", "ignore").decode()
    return " ".join(value.replace("\0", " ").split()) or None


def texts(value) -> list[str]:
    """The non-empty strings of a list field, stripped; [] where the field is missing or of another type."""
    return [entry for entry in map(text, value) if entry] if isinstance(value, list) else []


def _year(value, report: Report, place: str) -> int | None:
    # from 1998, "1998" or "1998.0"; None, and counted, where it is missing or impossible
    match = YEAR.fullmatch(str(value)) if isinstance(value, (str, float)) else None
    if match and FIRST_YEAR <= int(match[1]) <= LAST_YEAR:
        return int(match[1])
    report.lacks("no year" if value in (None, "") else "impossible year", place)


def batch_of(columns: list, schema: pa.Schema, report: Report, place: Callable[[int], str], no_id: str) -> pa.RecordBatch:
    """A batch of `schema`; its columns come as raw values or as Arrow arrays; counts the records and what they lack."""
    # place: where a row stands in the file; no_id: the reason by which a record without an id is dropped
    if schema is PAPERS and not isinstance(years := columns[2], pa.Array):
        columns[2] = [v if type(v) is int and FIRST_YEAR <= v <= LAST_YEAR else _year(v, report, place(i)) for i, v in enumerate(years)]
    batch = pa.RecordBatch.from_arrays([array_of(*column) for column in zip(columns, schema.types, strict=True)], schema=schema)
    for name, (around, form) in BARE.items() if schema is PAPERS else ():
        ids = pc.ascii_lower(batch[name])
        if not pc.all(pc.match_substring_regex(ids, form)).as_py():
            ids = pc.replace_substring_regex(ids, around, "")
            ids = pc.if_else(pc.match_substring_regex(ids, form), ids, None)
        batch = batch.set_column(PAPERS.names.index(name), PAPERS.field(name), ids)
    for i in np.flatnonzero(batch["title"].is_null()) if schema is PAPERS else ():
        report.lacks("no title", place(i))
    ids = [pc.not_equal(pc.utf8_trim(column.fill_null(""), SPACES), "") for column in batch.columns[: 1 if schema is PAPERS else 2]]
    whole = pc.and_(ids[0], ids[-1])
    for i in np.flatnonzero(pc.invert(whole)):
        report.drop(schema, no_id, place(i))
    report.count(schema, whole.true_count)
    return batch if whole.true_count == len(whole) else batch.filter(whole)


def array_of(values, kind: pa.DataType) -> pa.Array:
    """Values as an Arrow array; what is not of the kind, or not UTF-8, is left out of lists or made null."""
    if isinstance(values, pa.Array):
        return values
    try:
        array = pa.array(values, kind)
    except (pa.ArrowException, UnicodeError, OverflowError, TypeError):
        return pa.array(map(texts if kind == TEXTS else text, values), kind)
    if kind != TEXT:
        return array
    letters = np.frombuffer(array.buffers()[2] or b"!", np.uint8)
    if letters.min() > SPACE and letters.max() < DELETE and pc.min(pc.binary_length(array)).as_py() != 0:
        return array  # nearly always, where these are ids: faster than the pattern
    if (untidy := pc.match_substring_regex(array, UNTIDY).fill_null(False)).true_count:
        array = pc.replace_with_mask(array, untidy, pa.array(map(text, array.filter(untidy).to_pylist()), TEXT))
    return array
