"""Keeping results on Google Drive, or in any folder: copied under new names, opened again and verified, the manifest last."""
# Drive's mount writes to the machine's own disk first, may drop in the middle, and counts deleted files until its Trash is emptied; so
# nothing is memory-mapped, appended or renamed there, and a failed copy is cut to 0 bytes before it is deleted.

import contextlib
import errno
import os
import re
import shutil
import threading
from pathlib import Path

from helpers.artefacts import MANIFEST, finished, read_manifest, sentences_for_disk_errors, sha256
from helpers.corpus.download import from_drive
from helpers.errors import ArtefactError
from helpers.progress import progress

MOUNT = Path(os.environ.get("COLAB_DRIVE_MOUNT", "/content/drive"))
_one_at_a_time = threading.Lock()  # a cell that is stopped and run again may still have a copy in hand
SPARE_BYTES = 50_000_000  # left free beside what is copied
REFUSALS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "there is no space left; empty Drive's Trash or take a smaller form, then run again")
REFUSALS[errno.ENOTCONN] = "Drive is not connected any more; mount it again (run this notebook's cells from the top)"
DRIVE_LINK = re.compile(r"drive\.google\.com/.*?(?:folders/|[?&]id=)([\w-]{10,})")


def colab_drive():
    """Colab's module `drive`; None where this is not Colab."""
    with contextlib.suppress(ImportError):
        from google.colab import drive

        return drive


def mount(folder: str) -> Path:
    """The folder to keep results in, made if need be: below My Drive on Colab (which asks for permission); ArtefactError if refused."""
    place = Path(folder).expanduser()
    if drive := colab_drive():
        try:
            drive.mount(str(MOUNT))
        except Exception as error:  # Colab raises ValueError, and its own MessageError where the user declines
            raise ArtefactError(f"Google Drive was not mounted ({error}); run this cell again and allow the access it asks for.") from error
        place = MOUNT / "MyDrive" / folder
    with _sentences(place):
        place.mkdir(parents=True, exist_ok=True)
    return place


def flush_and_unmount() -> None:
    """Wait until Drive has everything that was written; a no-op outside Colab. Raises ArtefactError where it could not be flushed."""
    if drive := colab_drive():
        try:
            drive.flush_and_unmount()
        except Exception as error:
            raise ArtefactError(f"Google Drive was not flushed ({error}): the last files may not be there; look into it.") from error


def _copy(source: Path, copy: Path, on_bytes=lambda count: None) -> None:
    # Copy a finished folder: every file is opened again and compared by its sha256; a folder without the manifest is not whole
    manifest = read_manifest(source, "the notebook that makes it", verify=True)
    hashes = {file: facts["sha256"] for file, facts in manifest["files"].items()} | {MANIFEST: sha256(source / MANIFEST)}
    with contextlib.ExitStack() as undone, _sentences(copy):
        if (need := _size(source) + SPARE_BYTES) > (free := shutil.disk_usage(copy.parent).free):
            advice = "choose a smaller form (int8 is the smallest that keeps the neighbours), or make room (Drive's Trash counts too)"
            raise ArtefactError(f"{copy.parent} has {free / 1e9:.2f} GB free, but {need / 1e9:.2f} GB are needed; {advice}.")
        undone.callback(_erase, copy)  # also where the cell is stopped
        copy.mkdir(parents=True)
        for file, expected in hashes.items():
            _copy_file(source / file, copy / file, on_bytes)
            if sha256(copy / file) != expected:
                raise ArtefactError(f"{copy / file} did not come back as it was written; nothing was kept, run this cell again.")
        undone.pop_all()


def checkpoints_on_drive(drive_folder: str, name: str, most: int, each: int):
    """(keep, elsewhere) for `train`: the newest `most` checkpoints of `each` bytes are kept in `drive_folder`; ArtefactError: no room."""
    # None both for drive_folder "". In `drive_folder/NAME-checkpoints`; with `most` 1 the old one makes room before the new one is copied
    if not drive_folder:
        return None, None
    place = mount(os.path.join(drive_folder, f"{name}-checkpoints"))
    with _sentences(place):
        free = shutil.disk_usage(place).free + sum(map(_size, filter(Path.is_dir, place.iterdir()))) - SPARE_BYTES
    if most * each > free:
        fits = "SETTINGS = {'checkpoints_on_drive': 1} fits (the old one is then deleted before the new one is there)"
        advice = fits if most > 1 and each <= free else "take fewer DIMENSIONS, or an empty DRIVE_FOLDER"
        raise ArtefactError(f"{place} has room for {free / 1e9:.2f} GB, but {most} x {each / 1e9:.2f} GB are to be kept there; {advice}.")

    def keep_checkpoint(checkpoint: Path) -> None:
        try:
            with _one_at_a_time, _sentences(place):
                _keep_newest(checkpoint, place, most)
        except ArtefactError:
            with contextlib.suppress(Exception):  # for the next try, Drive is mounted again, as far as Colab allows it without asking
                if (drive := colab_drive()) and not os.path.isdir(place):
                    drive.mount(str(MOUNT), force_remount=True)
            raise

    return keep_checkpoint, place


def _keep_newest(checkpoint: Path, place: Path, most: int) -> None:
    place.mkdir(parents=True, exist_ok=True)
    there = sorted(path for path in place.iterdir() if path.name.isdecimal())
    whole = [path for path in there if finished(path, verify=False)]
    if whole and whole[-1].name > checkpoint.name and finished(whole[-1]):
        raise ArtefactError(f"{whole[-1]} is further along than this run; run this notebook again to go on from there.")
    whole = [path for path in whole if path.name <= checkpoint.name]
    if whole and (whole[-1] / MANIFEST).read_bytes() == (checkpoint / MANIFEST).read_bytes():
        return
    for path in there:
        if path not in whole[max(0, len(whole) - most + 1) :] or path.name == checkpoint.name:
            _erase(path)
    _copy(checkpoint, place / checkpoint.name)


def keep_all(folders: list[Path], drive_folder: str, name: str) -> list[Path]:
    """Keep finished folders in `drive_folder` (see `mount`) as `NAME-FORM`, then flush Drive; returns the copies, [] where it is ""."""
    if not drive_folder:
        return []
    place, copies = mount(drive_folder), []
    for folder in folders:  # as NAME-FORM-2, ... where there is one already
        names = (f"{name}-{folder.name}{again}" for again in ("", *(f"-{i}" for i in range(2, 10_000))))
        copies.append(next(place / free for free in names if not (place / free).exists()))
        with progress(title=f"Copying to {copies[-1].name}", unit="B", total=_size(folder)) as bar:
            _copy(folder, copies[-1], bar.update)
    flush_and_unmount()
    return copies


def open_finished(place: str, downloads: Path) -> Path:
    """The folder of finished embeddings, verified, that `place` is, or links to (on Drive; it comes into `downloads`); ArtefactError."""
    folder = Path(place).expanduser()
    if "://" in place:
        if not (found := DRIVE_LINK.search(place)):
            raise ArtefactError(f"{place} is not a link to a Google Drive folder; share it and copy its link (.../drive/folders/...).")
        folder = downloads / found[1]
        folder.mkdir(parents=True, exist_ok=True)
        from_drive("download_folder", place, ArtefactError, id=found[1], output=f"{folder}{os.sep}")
        folder = next((path.parent for path in sorted(folder.rglob(MANIFEST))), folder)
    read_manifest(folder, "the export (notebook 06), or the download,", verify=True)
    return folder


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _copy_file(source: Path, copy: Path, on_bytes) -> None:
    with open(source, "rb") as reader, open(copy, "xb") as writer:
        while part := reader.read(1 << 24):  # large, because every write crosses the network
            on_bytes(writer.write(part))
        writer.flush()
        os.fsync(writer.fileno())


def _erase(folder: Path) -> None:
    # Delete a half copy, its files cut to nothing first: what is in Drive's Trash counts against the quota
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            os.truncate(file, 0)
            file.unlink()
        folder.rmdir()


def _sentences(path: Path):
    return sentences_for_disk_errors(path, "kept", REFUSALS, "check the place and run this cell again")
