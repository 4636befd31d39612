"""Lines of JSON -> batches: a block of lines at a time, line by line where one of them is bad."""

import contextlib
import re
from collections.abc import Iterator

import msgspec
import numba
import numpy as np
import pyarrow as pa

from helpers.corpus.json_formats import JsonFormat
from helpers.corpus.records import BATCH_RECORDS, CITATIONS, OTHER_ENDS, TEXTS, Report, array_of, batch_of, kind_of

BATCH_BYTES = 1 << 27  # bytes of JSON lines a batch: long lines make smaller batches
BAD_LINE = (msgspec.MsgspecError, ValueError, TypeError, RecursionError, AttributeError)
BLANK = b" \t\r\n,[]"  # what stands between the records of a JSON array, one a line
INDENTED = re.compile(rb"\n[\0- ]")


def json_batches(blocks: Iterator[tuple[int, bytes]], file, reader: JsonFormat, report: Report) -> Iterator[pa.RecordBatch]:
    """Batches of reader.SCHEMA from blocks of whole lines of JSON, each with the number of its first."""
    decoder, schema, kind = msgspec.json.Decoder(reader.Record), reader.SCHEMA, kind_of(reader.SCHEMA)

    def row_of(line: bytes, number: int) -> tuple | None:
        # None for a blank line or a malformed one; the records of a JSON array have commas around them
        with contextlib.suppress(*BAD_LINE):
            row = reader.row(decoder.decode(line := line.strip(BLANK)))
            _columns([row], schema)  # raises where a list of ids is no JSON
            return row
        if line:
            report.drop(kind, "malformed", f"{file.name}, line {number}")

    def batch() -> pa.RecordBatch:
        no_id = "no id" if schema is CITATIONS else "malformed"
        return batch_of(columns, schema, report, lambda i: f"{file.name}, line {numbers[i]}", no_id)

    numbers, columns, size = [], [[] for _ in schema], 0
    for first, block in blocks:
        found = range(first, first + block.count(b"\n") + (not block.endswith(b"\n")))
        try:  # nearly always: a record a line (two in one line and a blank one would give the same count)
            rows = [reader.row(record) for record in decoder.decode_lines(block)]
            if len(rows) != len(found) or block[:1] <= b" " or INDENTED.search(block):
                raise ValueError
            values = _columns(rows, schema)
        except BAD_LINE:
            kept = [(row, i) for i, line in enumerate(block.split(b"\n"), first) if (row := row_of(line, i))]
            values, found = _columns([row for row, _ in kept], schema), [i for _, i in kept]
        numbers.extend(found)
        size += len(block)
        for column, some in zip(columns, values, strict=False):
            column.extend(some)
        if len(numbers) >= BATCH_RECORDS or size > BATCH_BYTES:
            yield batch()
            numbers, columns, size = [], [[] for _ in schema], 0
    yield batch()


def _columns(rows: list[tuple], schema: pa.Schema) -> list:
    # The columns of some rows: tuples of values; of lists of ids one Arrow array
    columns = zip(schema.names, zip(*rows, strict=True), strict=False)
    return [(_id_lists(values),) if name in OTHER_ENDS else values for name, values in columns]


def _id_lists(values: tuple) -> pa.Array:
    # Lists of ids, in Python or as JSON; what is not a string is left out. Raises BAD_LINE where one is not JSON
    if type(values[0]) is msgspec.Raw:
        text = b"\n".join((*values, b""))
        lists, ids = np.zeros(len(values) + 1, np.int32), np.zeros(text.count(b'"') // 2 + 1, np.int32)
        letters = np.empty(len(text), np.uint8)
        if text.isascii() and b"\\" not in text and _split(np.frombuffer(text, np.uint8), lists, ids, letters):
            ids = pa.StringArray.from_buffers(len(ids) - 1, pa.py_buffer(ids), pa.py_buffer(letters))
            return pa.ListArray.from_arrays(pa.array(lists), ids)
        values = [value if isinstance(value, list) else () for value in map(msgspec.json.decode, values)]
    return array_of(values, TEXTS)


@numba.njit(cache=True, nogil=True)
def _split(text, lists, ids, letters):
    # Split lists in JSON, one a line, into their strings, which hold no escapes; returns whether there was nothing else
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
