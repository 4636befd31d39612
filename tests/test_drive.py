"""Keeping results on Drive, through the stub of Colab's package, and everything that goes wrong there."""

import errno
import json
import os
import shutil
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest

from helpers.artefacts import read_manifest, write_manifest
from helpers.errors import ArtefactError
from helpers.export import drive
from helpers.export.drive import keep_all, mount, open_finished
from helpers.training import checkpoint as checkpoints
from helpers.training.checkpoint import Copies

STUB = Path(__file__).parent / "colab_stub"


@pytest.fixture
def finished(tmp_path) -> Path:
    """A finished folder: two arrays and a manifest."""
    folder = tmp_path / "finished"
    folder.mkdir()
    for name in ("target", "context"):
        np.save(folder / f"{name}.npy", np.random.default_rng(len(name)).random((1000, 8)))
    write_manifest(folder, form="npy_float16", shape=[1000, 8])
    return folder


@pytest.fixture
def colab(tmp_path, monkeypatch):
    """The stub of google.colab in place of the real one; its Drive is a folder."""
    monkeypatch.syspath_prepend(str(STUB))
    for name in [name for name in sys.modules if name == "google" or name.startswith("google.colab")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("COLAB_DRIVE_MOUNT", str(tmp_path / "drive"))
    monkeypatch.setattr(drive, "MOUNT", tmp_path / "drive")
    yield tmp_path / "drive"
    for name in [name for name in sys.modules if name == "google" or name.startswith("google.colab")]:
        del sys.modules[name]


def test_elsewhere_drive_is_a_plain_folder(tmp_path, finished):
    assert drive.colab_drive() is None
    (copy,) = keep_all([finished], str(tmp_path / "kept"), "sample")
    assert copy == tmp_path / "kept" / "sample-finished"
    assert read_manifest(copy, "", verify=True) == read_manifest(finished, "")


def test_on_colab_it_is_mounted_and_flushed(colab, finished):
    assert drive.colab_drive()
    copies = [keep_all([finished], "papers/mine", "cs")[0] for _ in range(2)]
    assert copies == [colab / "MyDrive" / "papers" / "mine" / name for name in ("cs-finished", "cs-finished-2")], "never over an older one"
    assert all(read_manifest(copy, "", verify=True) for copy in copies) and (colab / "flushed").exists()


def test_no_folder_keeps_nothing(finished):
    assert keep_all([finished], "", "sample") == []


def test_the_manifest_comes_last(tmp_path, finished, monkeypatch):
    order, original = [], drive._copy_file
    monkeypatch.setattr(drive, "_copy_file", lambda source, copy, bar: (order.append(copy.name), original(source, copy, bar)))
    drive._copy(finished, tmp_path / "copy")
    assert order == ["context.npy", "target.npy", "manifest.json"]


def test_access_declined(colab, monkeypatch):
    monkeypatch.setenv("COLAB_STUB", "declined")
    with pytest.raises(ArtefactError, match=r"Google Drive was not mounted \(mount failed\); run this cell again and allow"):
        mount("papers")


def test_a_flush_that_fails(colab, finished, monkeypatch):
    monkeypatch.setenv("COLAB_STUB", "no flush")
    with pytest.raises(ArtefactError, match="the last files may not be there"):
        keep_all([finished], "papers", "cs")


def test_too_little_space_is_told_before(tmp_path, finished, monkeypatch):
    monkeypatch.setattr(drive.shutil, "disk_usage", lambda place: types.SimpleNamespace(free=10**7))
    with pytest.raises(ArtefactError, match=r"has 0.01 GB free, but 0.05 GB are needed; choose a smaller form"):
        drive._copy(finished, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "number, sentence",
    [
        (errno.ENOTCONN, "Drive is not connected any more; mount it again"),
        (errno.ENOSPC, "there is no space left; empty Drive's Trash"),
        (errno.EDQUOT, "there is no space left; empty Drive's Trash"),
        (errno.EIO, "Input/output error; check the place and run this cell again"),
    ],
)
def test_a_copy_that_breaks_off_leaves_nothing(tmp_path, finished, monkeypatch, number, sentence):
    original = drive._copy_file
    (tmp_path / "drive").mkdir()

    def break_off(source, copy, bar):
        original(source, copy, bar)
        if copy.name == "target.npy":  # in the middle: one file is whole, this one is cut short
            os.truncate(copy, 100)
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(drive, "_copy_file", break_off)
    with pytest.raises(ArtefactError, match=sentence) as caught:
        drive._copy(finished, tmp_path / "drive" / "copy")
    assert "was not kept" in str(caught.value) and not list((tmp_path / "drive").iterdir())


@pytest.mark.parametrize("damage", ["short", "flipped"])
def test_a_file_that_does_not_come_back_as_it_went(tmp_path, finished, monkeypatch, damage):
    original = drive._copy_file
    (tmp_path / "drive").mkdir()

    def spoil(source, copy, bar):
        original(source, copy, bar)
        if copy.name == "target.npy":
            content = copy.read_bytes()
            copy.write_bytes(content[:-1] if damage == "short" else content[:-1] + bytes([content[-1] ^ 1]))

    monkeypatch.setattr(drive, "_copy_file", spoil)
    with pytest.raises(ArtefactError, match=r"target.npy did not come back as it was written; nothing was kept"):
        drive._copy(finished, tmp_path / "drive" / "copy")
    assert not list((tmp_path / "drive").iterdir())


def test_what_is_not_whole_is_not_copied(tmp_path, finished):
    (finished / "target.npy").write_bytes(b"short")
    with pytest.raises(ArtefactError, match="is missing or not as its manifest says"):
        drive._copy(finished, tmp_path / "drive" / "copy")
    assert not (tmp_path / "drive").exists()


def test_a_manifest_of_another_run(tmp_path, finished):
    manifest = json.loads((finished / "manifest.json").read_text())
    manifest["files"]["target.npy"]["sha256"] = "0" * 64
    (finished / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match=r"manifest.json is damaged"):
        open_finished(str(finished), tmp_path)
    del manifest["sha256"]
    (finished / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    with pytest.raises(ArtefactError, match=r"manifest.json is damaged"):
        open_finished(str(finished), tmp_path)


def test_a_folder_without_a_manifest(tmp_path):
    with pytest.raises(ArtefactError, match=r"manifest.json does not exist yet; run the export \(notebook 06\), or the download, first"):
        open_finished(str(tmp_path), tmp_path)


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="was not kept: File exists; check the place and run this cell again"):
        mount(str(tmp_path / "file"))


LINK = "https://drive.google.com/drive/folders/1AbCdEfGhIjKlMnOp?usp=sharing"


@pytest.fixture
def gdown(monkeypatch):
    """gdown's folder download replaced by a function of the test's: gdown(download)."""

    def replace(download):
        monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download_folder=download))

    return replace


def test_a_shared_link_is_downloaded_and_verified(tmp_path, finished, gdown):
    asked = []

    def download(id, output, use_cookies, resume):
        asked.append((id, resume))
        return [shutil.copy(file, output) for file in finished.iterdir()]

    gdown(download)
    folder = open_finished(LINK, tmp_path / "downloads")
    assert asked == [("1AbCdEfGhIjKlMnOp", True)] and read_manifest(folder, "", verify=True)


def raising(error):
    def download(**arguments):
        raise error

    return download


@pytest.mark.parametrize(
    "download, sentence",
    [
        (lambda **arguments: None, "nothing was downloaded"),  # gdown 5
        (raising(RuntimeError("Too many users have viewed\nor downloaded this file recently.")), "add a copy to your own Drive"),  # gdown 6
        (raising(RuntimeError("Cannot retrieve the public link of the file.")), "check that it is shared with «anyone with the link»"),
        (raising(ConnectionError("no route to host")), "no route to host"),
    ],
)
def test_what_google_refuses_becomes_what_to_do(tmp_path, gdown, download, sentence):
    gdown(download)
    with pytest.raises(ArtefactError, match=sentence) as caught:
        open_finished(LINK, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_download_that_is_not_whole(tmp_path, finished, gdown):
    def download(id, output, use_cookies, resume):
        for file in finished.iterdir():
            shutil.copy(file, output)
        os.truncate(Path(output) / "target.npy", 50)
        return ["some"]

    gdown(download)
    with pytest.raises(ArtefactError, match=r"target.npy is missing or not as its manifest says"):
        open_finished(LINK, tmp_path)


def test_a_link_to_something_else(tmp_path):
    with pytest.raises(ArtefactError, match="is not a link to a Google Drive folder"):
        open_finished("https://example.org/embeddings", tmp_path)


def test_the_real_gdown_takes_the_arguments_that_are_used():
    import inspect

    import gdown

    assert {"id", "output", "use_cookies", "resume"} <= set(inspect.signature(gdown.download_folder).parameters)


def checkpoint(folder: Path, step: int, seed: int = 0) -> Path:
    """A folder like a checkpoint's: a shard and a manifest."""
    path = folder / f"{step:09d}"
    path.mkdir(parents=True)
    np.save(path / "target-00000.npy", np.random.default_rng(step + seed).random((100, 8)))
    write_manifest(path, epoch=step, block=0)
    return path


@pytest.mark.parametrize("most", [1, 2])
def test_the_newest_checkpoints_are_kept_and_the_others_cut_to_nothing_first(tmp_path, monkeypatch, most):
    keep_checkpoint, place = drive.checkpoints_on_drive(str(tmp_path / "drive"), "cs", most, 10_000)
    assert place == tmp_path / "drive" / "cs-checkpoints"
    cut, original = [], os.truncate
    monkeypatch.setattr(os, "truncate", lambda path, size: (cut.append(Path(path).parent.name), original(path, size)))
    for step in (3, 5, 8, 13):
        one = checkpoint(tmp_path / "local", step)
        keep_checkpoint(one)
        keep_checkpoint(one)  # again: it is there
        assert read_manifest(place / one.name, "", verify=True) == read_manifest(one, "")
    assert sorted(path.name for path in place.iterdir()) == ["000000008", "000000013"][2 - most :]
    assert sorted(set(cut)) == ["000000003", "000000005", "000000008"][: 4 - most]


def test_a_half_copied_checkpoint_is_copied_again(tmp_path):
    keep_checkpoint, place = drive.checkpoints_on_drive(str(tmp_path / "drive"), "cs", 2, 10_000)
    one, two = checkpoint(tmp_path / "local", 3), checkpoint(tmp_path / "local", 5)
    keep_checkpoint(one)
    (place / two.name).mkdir()  # a run was killed here
    (place / two.name / "target-00000.npy").write_bytes(b"half")
    keep_checkpoint(two)
    assert all(read_manifest(place / path.name, "", verify=True) for path in (one, two))


def test_a_checkpoint_that_is_further_along_is_never_overwritten(tmp_path):
    keep_checkpoint, place = drive.checkpoints_on_drive(str(tmp_path / "drive"), "cs", 2, 10_000)
    further = checkpoint(tmp_path / "other", 7)
    keep_checkpoint(further)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    with pytest.raises(ArtefactError, match=r"000000007 is further along than this run; run this notebook again to go on from there"):
        keep_checkpoint(checkpoint(tmp_path / "local", 4))
    assert before == {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    content = bytearray((place / further.name / "target-00000.npy").read_bytes())
    content[-1] ^= 1
    (place / further.name / "target-00000.npy").write_bytes(content)  # damaged: no longer worth a refusal
    keep_checkpoint(checkpoint(tmp_path / "local", 5))
    assert [path.name for path in place.iterdir()] == ["000000005"]


def test_checkpoints_that_do_not_fit_are_told_before(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=15_000_000_000))
    with pytest.raises(
        ArtefactError, match=r"room for 14.95 GB, but 2 x 11.45 GB are to be kept there; SETTINGS = {'checkpoints_on_drive': 1} fits"
    ):
        drive.checkpoints_on_drive(str(tmp_path), "medline", 2, 11_450_000_000)
    drive.checkpoints_on_drive(str(tmp_path), "medline", 1, 11_450_000_000)
    with pytest.raises(ArtefactError, match=r"1 x 16.00 GB are to be kept there; take fewer DIMENSIONS, or an empty DRIVE_FOLDER"):
        drive.checkpoints_on_drive(str(tmp_path), "medline", 1, 16_000_000_000)
    assert drive.checkpoints_on_drive("", "medline", 2, 16_000_000_000) == (None, None)


def test_a_drive_that_drops_is_mounted_again_and_the_copy_catches_up(colab, tmp_path, monkeypatch, capsys):
    keep_checkpoint, place = drive.checkpoints_on_drive("papers", "cs", 2, 10_000)
    mounted, original, copied = [], drive._copy_file, []

    def remount(mountpoint, force_remount=False):
        mounted.append(force_remount)
        (tmp_path / "dropped").rename(colab)

    def drop_in_the_middle(source, copy, on_bytes):
        original(source, copy, on_bytes)
        copied.append(copy.name)
        if len(copied) == 1:
            colab.rename(tmp_path / "dropped")
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    import google.colab.drive

    monkeypatch.setattr(google.colab.drive, "mount", remount)
    monkeypatch.setattr(drive, "_copy_file", drop_in_the_middle)
    copies = Copies(keep_checkpoint)
    one = checkpoint(tmp_path / "local", 3)
    copies.put(one)
    copies.finish()
    assert mounted == [True] and read_manifest(place / one.name, "", verify=True)
    told = capsys.readouterr().out
    assert told.count("Drive is not connected any more") == 1 and "Training is not touched; trying again." in told


@pytest.mark.parametrize(
    "fault, sentence", [("short", "did not come back as it was written"), ("quota", "there is no space left; empty Drive's Trash")]
)
def test_a_drive_that_is_slow_and_short_or_full_is_told_and_the_copy_catches_up(tmp_path, monkeypatch, capsys, fault, sentence):
    keep_checkpoint, place = drive.checkpoints_on_drive(str(tmp_path / "drive"), "cs", 2, 10_000)
    original, copied = drive._copy_file, []

    def spoil(source, copy, on_bytes):
        original(source, copy, on_bytes)
        copied.append(copy.name)
        time.sleep(0.1)
        if len(copied) == 1 and fault == "short":
            os.truncate(copy, 10)
        if len(copied) == 1 and fault == "quota":
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(drive, "_copy_file", spoil)
    copies = Copies(keep_checkpoint)
    copies.put(one := checkpoint(tmp_path / "local", 3))
    assert not copied or "manifest.json" not in copied, "nobody waits for it"
    copies.finish()
    assert read_manifest(place / one.name, "", verify=True) == read_manifest(one, "")
    told = capsys.readouterr().out
    assert told.count(sentence) == 1 and "Training is not touched; trying again." in told


def test_copies_take_the_newest_alone_and_give_up_at_the_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints, "PAUSES", (1, 0))
    started, go_on, seen = threading.Event(), threading.Event(), []

    def slow(path):
        seen.append(path.name)
        started.set()
        go_on.wait()

    copies = Copies(slow)
    for step in (1, 2, 3):
        copies.put(tmp_path / str(step))
        started.wait()
    go_on.set()
    copies.finish()
    assert seen == ["1", "3"], "what came in the meantime and was overtaken is not copied"

    def refuse(path):
        raise ArtefactError("there is no space left.")

    copies = Copies(refuse)
    copies.put(tmp_path / "4")
    copies.finish()
    told = capsys.readouterr().out
    assert told.count("there is no space left") == 2 and f"it is whole in {tmp_path / '4'}; run this cell again to copy it" in told
