"""From paths to batches: which files a dump has, which reader each of them needs, and what can be wrong with a file as a whole."""

import functools
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import orjson
import pyarrow as pa

from helpers.corpus import openalex, s2_open_corpus, tables
from helpers.corpus.records import Report, paper_batches
from helpers.errors import DumpError

JSON_FORMATS = (s2_open_corpus, openalex)
ENDINGS = re.compile(r"^[^.].*\.(jsonl|json|csv|tsv|txt|parquet|gz)$", re.IGNORECASE)  # of the files that a folder is read for
FIRST_LINES = 200  # lines looked at to tell a format: the first ones may be malformed


def files_of(dumps: tuple[str, ...]) -> list[Path]:
    """The files of some dumps, folders replaced by the files below them in name order; raises DumpError where there is none."""
    files = []
    for dump in map(Path, dumps):
        found = sorted(file for file in dump.rglob("*") if file.is_file() and ENDINGS.search(file.name)) if dump.is_dir() else [dump]
        if not dump.exists():
            raise DumpError(f"{dump} does not exist; give the path of a dump's file or folder.")
        if not found:
            raise DumpError(
                f"{dump} is a folder without a dump's files (.jsonl, .json, .csv, .tsv, .txt, .parquet or .gz); give another path."
            )
        files.extend(found)
    return files


def read(path: Path, report: Report) -> Iterator[pa.RecordBatch]:
    """Batches of PAPERS or CITATIONS (told apart by their schema) from one file of any known format.

    Raises DumpError where the file as a whole cannot be read: unknown format, cut off, damaged, empty, no permission.
    """
    try:
        if path.stat().st_size == 0:
            raise DumpError(f"{path} is empty (0 bytes); download it again.")
        yield from _read(path, report)
    except EOFError as error:
        raise DumpError(f"{path} is cut off in the middle; download it again.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DumpError(f"{path} is damaged ({error}); download it again.") from error
    except pa.ArrowException as error:
        raise DumpError(f"{path} cannot be read as a table: {str(error).splitlines()[0]}; repair or download it again.") from error
    except OSError as error:
        raise DumpError(f"{path} cannot be read: {error.strerror or error}; check the path and its permissions.") from error


def _read(path: Path, report: Report) -> Iterator[pa.RecordBatch]:
    with open(path, "rb") as file:
        magic = file.read(4)
    open_file = functools.partial(gzip.open if magic[:2] == b"\x1f\x8b" else open, path, "rb")
    if magic == b"PAR1":
        yield from tables.read(path, open_file, None, report)
        return
    with open_file() as file:
        first = file.readline(1 << 24)
    if path.suffix == ".gz" and magic[:2] != b"\x1f\x8b":
        raise DumpError(f"{path} is named .gz but is not a gzip file; download it again, or rename it.")
    if first.lstrip()[:1] in (b"{", b"[") or not first.strip():
        yield from paper_batches(_lines(open_file), path, _json_format(path, open_file).parse, report)
    else:
        yield from tables.read(path, open_file, first.decode("utf-8-sig", errors="replace").splitlines()[0], report)


def _lines(open_file) -> Iterator[tuple[int, bytes]]:
    with open_file() as file:
        yield from enumerate(file, start=1)


def _json_format(path: Path, open_file):
    for number, line in _lines(open_file):
        if number > FIRST_LINES:
            break
        try:
            record = orjson.loads(line)
        except ValueError:
            continue
        for module in JSON_FORMATS:
            if isinstance(record, dict) and module.recognises(record):
                return module
    raise DumpError(
        f"{path}: none of the first {FIRST_LINES} lines is a record of a known format "
        "(S2 Open Research Corpus, OpenAlex works); see the README's list of dumps."
    )
