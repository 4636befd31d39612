"""From paths to batches: which files a dump has, which reader each of them needs, and what can be wrong with a file as a whole."""

import contextlib
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec
import pyarrow as pa

from helpers.corpus import aminer, ancestor, openalex, s2_academic_graph, s2_open_corpus, tables
from helpers.corpus.records import BAD_LINE, BLANK, Report, json_batches
from helpers.errors import DumpError

try:
    from isal.igzip import IGzipFile as GzipFile  # twice as fast
except ImportError:
    from gzip import GzipFile

JSON_FORMATS = (s2_open_corpus, openalex, *s2_academic_graph.FORMATS, aminer)
ENDINGS = re.compile(r"^[^.].*\.(jsonl|json|csv|tsv|txt|parquet|h5|hdf5|gz|zip)$", re.IGNORECASE)  # of the files that a folder is read for
FIRST_LINES = 200  # lines looked at to tell a format: the first ones may be malformed
CHUNK = 1 << 22  # bytes read at a time
MOST_LINE = 1 << 26  # bytes of the longest line that may be a record
DAMAGED = (gzip.BadGzipFile, zlib.error, zipfile.BadZipFile, NotImplementedError)  # isal's error is zlib's


@dataclass(frozen=True)
class DumpFile:
    """One file of a dump, or one member of a zip archive, which is read without being unpacked."""

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    @property
    def name(self) -> str:
        """The name without its folder."""
        return f"{self.path.name}/{self.member}" if self.member else self.path.name

    @property
    def size(self) -> int:
        """Bytes on disk."""
        if not self.member:
            return self.path.stat().st_size
        with zipfile.ZipFile(self.path) as archive:
            return archive.getinfo(self.member).compress_size


def files_of(dumps: tuple[str, ...]) -> list[DumpFile]:
    """The files of some dumps, folders and archives replaced by the files in them in name order; raises DumpError where there is none."""
    files = []
    for dump in map(Path, dumps):
        found = sorted(file for file in dump.rglob("*") if file.is_file() and ENDINGS.search(file.name)) if dump.is_dir() else [dump]
        if not dump.exists():
            raise DumpError(f"{dump} does not exist; give the path of a dump's file or folder.")
        if not found:
            raise DumpError(
                f"{dump} is a folder without a dump's files (.jsonl, .json, .csv, .tsv, .txt, .parquet, .h5, .gz, .zip); give another path."
            )
        for path in found:
            files += _members(path) if path.suffix.lower() == ".zip" else [DumpFile(path)]
    return files


def _members(path: Path) -> list[DumpFile]:
    with _sentences(path), zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if info.filename and not info.is_dir()]
    if any(info.flag_bits & 1 for info in members):
        raise DumpError(f"{path} is encrypted; unpack it with its password and give the folder.")
    names = [info.filename for info in members]
    if climbing := [name for name in names if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts]:
        raise DumpError(f"{path} holds a file whose path climbs out of the archive ({climbing[0]!r}); get the dump from its source again.")
    if not (found := sorted(name for name in names if ENDINGS.search(PurePosixPath(name).name))):
        raise DumpError(f"{path} is a zip archive without a dump's files (.jsonl, .json, .csv, .tsv, .txt or .gz); give another path.")
    return [DumpFile(path, name) for name in found]


@contextlib.contextmanager
def _sentences(file) -> Iterator[None]:
    """Turn what can be wrong with a whole file into one sentence; raises DumpError."""
    try:
        yield
    except EOFError as error:
        raise DumpError(f"{file} is cut off in the middle; download it again.") from error
    except DAMAGED as error:
        raise DumpError(
            f"{file} is damaged ({str(error).splitlines()[0] if str(error) else 'no reason known'}); download it again."
        ) from error
    except pa.ArrowException as error:
        raise DumpError(f"{file} cannot be read as a table: {str(error).splitlines()[0]}; repair or download it again.") from error
    except OSError as error:
        raise DumpError(f"{file} cannot be read: {error.strerror or error}; check the path and its permissions.") from error


class _Counted(io.RawIOBase):
    """A file that tells how many bytes of it are read."""

    def __init__(self, file, on_bytes: Callable[[int], None]):
        self._file, self._on_bytes = file, on_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        count = self._file.readinto(buffer)
        self._on_bytes(count)
        return count


@contextlib.contextmanager
def _opened(file: DumpFile, on_bytes: Callable[[int], None] = lambda count: None) -> Iterator[io.BufferedIOBase]:
    """The file's bytes, decompressed; on_bytes: called with the number of compressed bytes as they are read."""
    with contextlib.ExitStack() as stack:
        if file.member:
            whole = stack.enter_context(stack.enter_context(zipfile.ZipFile(file.path)).open(file.member))
        else:
            whole = stack.enter_context(open(file.path, "rb", buffering=0))
        stream = io.BufferedReader(_Counted(whole, on_bytes), 1 << 20)
        yield stack.enter_context(GzipFile(fileobj=stream)) if stream.peek(2)[:2] == b"\x1f\x8b" else stream


def reader_of(file: DumpFile):
    """The module or table that reads a file: its SCHEMA tells what it yields. Raises DumpError where none does, or the file is broken."""
    with _sentences(file):
        if file.size == 0:
            raise DumpError(f"{file} is empty (0 bytes); download it again.")
        with _opened(file) as stream:
            first = stream.readline(1 << 24)
            head = first + stream.read(1 << 16)
            if file.path.suffix == ".gz" and not isinstance(stream, GzipFile):
                raise DumpError(f"{file} is named .gz but is not a gzip file; download it again, or rename it.")
        if first[:4] == b"PAR1":
            return tables.Parquet(file)
        if first[:4] == ancestor.MAGIC:
            return ancestor.Ancestor(file)
        if file.path.suffix.lower() in ancestor.PICKLES:
            raise DumpError(f"{file} is a pickle: it is read with the .h5 file beside it; give that, or the folder of both.")
        try:
            if first.lstrip()[:1] in (b"{", b"[") or not first.strip():
                return _json_format(file)
            return tables.Csv(file, first.decode("utf-8-sig", errors="replace").splitlines()[0])
        except DumpError:
            if aminer.UNREAD.search(head):
                raise DumpError(f"{file} {aminer.ONLY}") from None
            raise


def _json_format(file: DumpFile):
    with _opened(file) as stream:
        for number, line in _lines(stream):
            if number > FIRST_LINES:
                break
            with contextlib.suppress(*BAD_LINE):
                record = msgspec.json.decode((line or b"").strip(BLANK))
                for reader in JSON_FORMATS if isinstance(record, dict) else ():
                    if reader.recognises(record):
                        return reader
    raise DumpError(
        f"{file}: none of the first {FIRST_LINES} lines is a record of a known format "
        "(S2 Open Research Corpus, S2 Academic Graph, OpenAlex works, AMiner DBLP); see the README's list of dumps."
    )


def read(file: DumpFile, report: Report, on_bytes: Callable[[int], None] = lambda count: None) -> Iterator[pa.RecordBatch]:
    """Batches of PAPERS, CITATIONS or OTHER_IDS (told apart by their schema) from one file of any known format.

    on_bytes: called with the number of compressed bytes as they are read.
    Raises DumpError where the file as a whole cannot be read: unknown format, cut off, damaged, empty, no permission.
    """
    reader = reader_of(file)
    with _sentences(file), _opened(file, on_bytes) as stream:
        if isinstance(reader, ancestor.Ancestor):
            yield from reader.batches(on_bytes, report)
        elif isinstance(reader, tables.Table):
            yield from reader.batches(stream, report)
        else:
            yield from json_batches(_lines(stream), file, reader, report)


def _lines(stream) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines; None instead of one that is longer than MOST_LINE."""
    number, rest, too_long = 0, b"", False
    while chunk := stream.read(CHUNK):
        *lines, end = chunk.split(b"\n")
        for line in lines:
            number += 1
            yield number, None if too_long else rest + line
            rest, too_long = b"", False
        rest, too_long = (b"", True) if too_long or len(rest) + len(end) > MOST_LINE else (rest + end, False)
    if rest or too_long:
        yield number + 1, None if too_long else rest
