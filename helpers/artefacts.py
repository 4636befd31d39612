"""Files and folders that are whole or not there: written under a temporary name, flushed, renamed; a manifest hashes them."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from helpers import __version__
from helpers.errors import ArtefactError

MANIFEST = "manifest.json"
ADVICE = "choose another --out"
REFUSALS = {errno.ENOSPC: f"the disk is full; free space or {ADVICE}"}


@contextlib.contextmanager
def sentences_for_disk_errors(path: Path, done: str = "written", refusals: dict = REFUSALS, advice: str = ADVICE) -> Iterator[None]:
    """Turn an operating system's refusal to write `path` into one sentence; raises ArtefactError. refusals: what to say, by errno."""
    try:
        yield
    except OSError as error:
        number = errno.ENOSPC if "requested and" in str(error) else error.errno  # numpy's short write has no number
        why = refusals.get(number, f"{error.strerror or error}; {advice}")
        raise ArtefactError(f"{path} was not {done}: {why}.") from error


@contextlib.contextmanager
def new_file(path: str | os.PathLike, folder: bool = False) -> Iterator[Path]:
    """A temporary place that becomes the file or folder `path` if the block ends well, else vanishes; ArtefactError if the disk refuses."""
    path = Path(path)
    with sentences_for_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f".{glob.escape(path.name)}.new-*"):  # of a process that was killed
            shutil.rmtree(stale, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.new-", dir=path.parent, ignore_cleanup_errors=True) as room:
            new = Path(room) / path.name
            if folder:
                new.mkdir()
            yield new
            for file in new.iterdir() if new.is_dir() else [new]:
                _flush(file)
            if new.is_dir() and path.exists():  # nothing replaces a folder in one step
                path.rename(Path(room) / "old")
            new.rename(path)
            _flush(path.parent)


new_folder = partial(new_file, folder=True)  # a new_file that is a folder


def _flush(path: Path) -> None:
    # Wait until a file, or a folder's list of names, is on the disk
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | os.PathLike, value: dict) -> None:
    """Write `value` as an indented JSON file, whole or not at all."""
    with new_file(path) as temporary:
        temporary.write_bytes(_as_json(value))


def _as_json(value) -> bytes:
    # backslashreplace: JSON's own escape of a file name's odd bytes
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, **facts) -> None:
    """Write `manifest.json` into `folder`: the given facts, the code's version, and size and sha256 of every file; call it last."""
    files = sorted(file for file in folder.iterdir() if file.name != MANIFEST)
    facts |= {"code_version": __version__, "files": {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files}}
    write_json(folder / MANIFEST, _sealed(facts))


def _sealed(manifest: dict) -> dict:
    facts = {name: value for name, value in manifest.items() if name != "sha256"}
    return {**facts, "sha256": hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()}


def read_manifest(folder: str | os.PathLike, made_by: str, verify: bool = False) -> dict:
    """A folder's manifest; ArtefactError (run `made_by`) where it or a file is missing, or differs in size or, if `verify`, hash."""
    folder = Path(folder)
    manifest = read_json(folder / MANIFEST, made_by)
    if not isinstance(manifest, dict) or _as_json(_sealed(manifest)) != (folder / MANIFEST).read_bytes():  # to the last digit
        raise ArtefactError(f"{folder / MANIFEST} is damaged; run {made_by} again.")
    for name, facts in manifest["files"].items():
        file = folder / name
        if not file.exists() or file.stat().st_size != facts["bytes"] or (verify and sha256(file) != facts["sha256"]):
            raise ArtefactError(f"{file} is missing or not as its manifest says; run {made_by} again.")
    return manifest


def finished(folder: Path, facts: dict | None = None, verify: bool = True) -> bool:
    """Whether a folder is there, whole (`verify` as above) and, where facts are given, made with them by this version of the code."""
    with contextlib.suppress(ArtefactError):
        expected = {} if facts is None else {**facts, "code_version": __version__}
        return expected.items() <= read_manifest(folder, "", verify).items()
    return False


def _read(path: Path, made_by: str, read: Callable):
    try:
        return read(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ArtefactError(f"{path} does not exist yet; run {made_by} first.") from None
    except ValueError:
        raise ArtefactError(f"{path} is damaged; run {made_by} again.") from None


def read_json(path: Path, made_by: str) -> dict:
    """A JSON artefact; raises ArtefactError, naming what makes it, where it is missing or damaged."""
    return _read(path, made_by, lambda path: json.loads(path.read_text(encoding="utf-8")))


def map_array(path: Path, made_by: str) -> np.ndarray:
    """A `.npy` file, memory-mapped read-only; raises ArtefactError, naming what makes it, where it is missing or damaged."""
    return _read(path, made_by, lambda path: np.load(path, mmap_mode="r"))


def differences(recorded: dict, wanted: dict) -> list[str]:
    """What is wanted otherwise than it is recorded, as "name VALUE there, VALUE here"."""
    return [f"{name} {recorded.get(name)} there, {value} here" for name, value in wanted.items() if recorded.get(name) != value]


def refuse_another_run(config, record: Path, names: tuple[str, ...]) -> None:
    """Raise ArtefactError where `config.out` holds checkpoints, and `record`, a file of their corpus or pairs, other settings."""
    if record.exists() and any(config.folder("checkpoints").glob(f"*/{MANIFEST}")):
        if differs := differences(read_json(record, "the notebooks")["config"], config.part(names)):
            raise ArtefactError(f"{config.out} holds a run trained otherwise ({'; '.join(differs)}): choose another --out, or delete it.")


def new_array(path: Path, dtype, shape: tuple[int, ...]) -> np.ndarray:
    """A new memory-mapped `.npy` file whose place on the disk is taken at once: a full disk is an OSError here, not a crash later."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, file.seek(0, os.SEEK_END))
    return array


@contextlib.contextmanager
def open_npy(path: Path, dtype, *shape: int) -> Iterator:
    """A new `.npy` file of that shape, to be filled by writing its values in order."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
        yield file


def values_of(path: str | os.PathLike, dtype, most: int) -> Iterator[np.ndarray]:
    """The values of a file that holds nothing else, at most so many at a time."""
    with open(path, "rb") as file:
        while len(values := np.fromfile(file, dtype, most)):
            yield values
