"""From paths to batches: which files a dump has, which reader each of them needs, and what can be wrong with a file as a whole."""

import contextlib
import io
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import msgspec
import pyarrow as pa
from isal import isal_zlib
from isal.igzip import IGzipFile

from helpers.config import REMOTE
from helpers.corpus import tables
from helpers.corpus.json_lines import BAD_LINE, BLANK, JSON_FORMATS, json_batches
from helpers.corpus.records import Report
from helpers.errors import DumpError, in_a_line

ENDINGS = re.compile(r"^[^.].*\.(jsonl|json|csv|tsv|txt|parquet|h5|hdf5|gz|zip)$", re.IGNORECASE)  # of the files that a folder is read for
FIRST_LINES = 200  # lines looked at to tell a format: the first ones may be malformed
CHUNK = 1 << 17  # bytes decompressed at a time
MOST_LINE = 1 << 24  # bytes of the longest line that may be a record: a long record has a few MB
DAMAGED = (zlib.error, isal_zlib.error, lzma.LZMAError, zipfile.BadZipFile, UnicodeDecodeError, RuntimeError)


class DumpFile(NamedTuple):
    """One file of a dump, or one member of a zip archive, which is read without being unpacked."""

    path: Path
    member: str = ""
    size: int = 0  # bytes on disk
    changed: int = 0  # when, nanoseconds

    def __str__(self) -> str:
        return str(self.path / self.member)

    @property
    def name(self) -> str:
        """The name without its folder."""
        return f"{self.path.name}/{self.member}" if self.member else self.path.name


def files_of(dumps: tuple[str, ...]) -> list[DumpFile]:
    """The files of some dumps, those in folders and archives in name order, none yet of what is remote. DumpError where there are none."""
    if not dumps:
        raise DumpError("This preset needs a dump: give the path of its file or folder with --dump PATH, or as DUMPS in notebook 01.")
    files = []
    for dump in (Path(dump) for dump in dumps if not REMOTE.match(str(dump))):
        with sentences(dump):
            if not (dump.is_file() or dump.is_dir()):  # a pipe would be waited for
                raise DumpError(f"{dump} does not exist, or is no file; give the path of a dump's file or folder.")
            walk = os.walk(dump, onerror=_refuse)  # a folder that may not be read is told, not passed over
            found = [Path(folder, name) for folder, _, names in walk for name in names if ENDINGS.search(name)] if dump.is_dir() else [dump]
        found = [file for path in sorted(found) for file in _members(path)]
        if not found:
            raise DumpError(f"{dump} holds no dump's files (.jsonl, .json, .csv, .tsv, .txt, .parquet, .h5, .gz, .zip); give another path.")
        files += found
    return files


def _refuse(error: OSError) -> None:
    raise error


def _members(path: Path) -> list[DumpFile]:
    # The dump's files in a zip archive, or the file itself where it is none
    with sentences(path):
        status = path.stat()
        whole = DumpFile(path, "", status.st_size, status.st_mtime_ns)
        with open(path, "rb") as file:
            if file.read(4) != b"PK\x03\x04":
                return [whole]
            sizes = {member.filename: member.compress_size for member in zipfile.ZipFile(file).infolist() if not member.is_dir()}
    for name in sizes:
        if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts or not name.isprintable():
            raise DumpError(f"{path} holds a file whose path climbs out of the archive ({name!r}); get the dump from its source again.")
    return [DumpFile(path, name, size, whole.changed) for name, size in sorted(sizes.items()) if ENDINGS.search(PurePosixPath(name).name)]


@contextlib.contextmanager
def sentences(file, byte: Callable[[], int] | None = None) -> Iterator[None]:
    """Turn what can be wrong with a whole file into one sentence; byte: tells how far it was read. Raises DumpError."""
    try:
        yield
    except (EOFError, *DAMAGED, pa.ArrowException, OSError) as error:
        place = f"byte {byte():,}" if byte else ""
        if isinstance(error, EOFError):
            told = f"is cut off in the middle{place and f', at {place}'}; download it again"
        elif getattr(error, "errno", None):
            told = f"cannot be read: {error.strerror}; check the path and its permissions"
        else:  # what a library says about what it read
            told = f"is damaged{place and f' before {place}'} ({in_a_line(error)}); repair or download it again"
        raise DumpError(f"{file} {told}.") from error


@contextlib.contextmanager
def opened(file: DumpFile) -> Iterator[tuple[io.BufferedReader, Callable[[], int]]]:
    """The file's bytes, decompressed; and a function that tells how many bytes of the file are read."""
    with contextlib.ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(file.path)) if file.member else None
        whole = stack.enter_context(archive.open(file.member) if archive else open(file.path, "rb", buffering=0))
        stack.enter_context(sentences(file, whole.tell))
        stream = io.BufferedReader(whole, 1 << 20)
        if stream.peek(2)[:2] == b"\x1f\x8b":
            stream = io.BufferedReader(stack.enter_context(IGzipFile(fileobj=stream)), CHUNK)
        if stream.peek(3)[:3] == b"\xef\xbb\xbf":  # Windows programs begin a text file with it
            stream.read(3)
        yield stream, whole.tell


def reader_of(file: DumpFile):
    """What reads a file, a table or a format of JSON lines. Raises DumpError where none does, or the file is broken."""
    with sentences(file):
        if not file.path.stat().st_size or (file.member and not file.size):
            raise DumpError(f"{file} is empty (0 bytes); download it again.")
        with opened(file) as (stream, _):
            first, packed = stream.readline(MOST_LINE), not isinstance(stream.raw, io.FileIO)
        if first[:4] == b"\x89HDF":
            raise DumpError(f"{file} is HDF5: make tables of it by `python data/convert_ancestor.py {file} FOLDER`, and give that folder.")
        if first[:4] == b"PAR1":
            if packed:
                raise DumpError(f"{file} is a parquet file inside an archive; unpack it first.")
            return tables.Table(file)
        if first.lstrip()[:1] in (b"{", b"[") or not first.strip():
            return _json_format(file)
        return tables.Table(file, first[:100_000].decode(errors="replace").splitlines()[0])


def _json_format(file: DumpFile):
    with opened(file) as (stream, _):
        for _ in range(FIRST_LINES):
            with contextlib.suppress(*BAD_LINE):
                record = msgspec.json.decode(stream.readline(MOST_LINE).strip(BLANK), type=dict)
                if readers := [reader for reader in JSON_FORMATS if reader.recognises(record)]:
                    return readers[0]
    known = "a known format (S2 Open Research Corpus, S2 Academic Graph, OpenAlex works, AMiner DBLP v10, v11, v12 or v14)"
    raise DumpError(f"{file}: none of the first {FIRST_LINES} lines is a record of {known}; see the README's list of dumps.")


def read(file: DumpFile, report: Report, on_bytes: Callable[[int], None] = lambda count: None) -> Iterator[pa.RecordBatch]:
    """Batches of PAPERS, CITATIONS or OTHER_IDS from one file of any known format; on_bytes: told the compressed bytes; DumpError."""
    reader, done = reader_of(file), 0
    with sentences(file), opened(file) as (stream, place):
        of_table = isinstance(reader, tables.Table)
        for batch in reader.batches(stream, report) if of_table else json_batches(_lines(stream), file, reader, report):
            yield batch
            on_bytes(place() - done)
            done = place()


def _lines(stream) -> Iterator[bytes]:
    # of a line over MOST_LINE a question mark stays, which is no record
    while line := stream.readline(MOST_LINE):
        if len(line) == MOST_LINE and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(MOST_LINE)
            line = b"?"
        yield line
