"""Keeping results on Drive, through the stub of Colab's package, and everything that goes wrong there."""

import errno
import json
import os
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from helpers.artefacts import read_manifest, write_manifest
from helpers.errors import ArtefactError
from helpers.export import drive
from helpers.export.drive import check_space, keep, keep_all, mount, open_finished

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
    assert not drive.on_colab()
    (copy,) = keep_all([finished], str(tmp_path / "kept"), "sample")
    assert copy == tmp_path / "kept" / "sample-finished"
    assert read_manifest(copy, "", verify=True) == read_manifest(finished, "")


def test_on_colab_it_is_mounted_and_flushed(colab, finished):
    assert drive.on_colab()
    copies = [keep_all([finished], "papers/mine", "cs")[0] for _ in range(2)]
    assert copies == [colab / "MyDrive" / "papers" / "mine" / name for name in ("cs-finished", "cs-finished-2")], "never over an older one"
    assert all(read_manifest(copy, "", verify=True) for copy in copies) and (colab / "flushed").exists()


def test_no_folder_keeps_nothing(finished):
    assert keep_all([finished], "", "sample") == []


def test_the_manifest_comes_last(tmp_path, finished, monkeypatch):
    order, original = [], drive._copy_file
    monkeypatch.setattr(drive, "_copy_file", lambda source, copy, bar: (order.append(copy.name), original(source, copy, bar)))
    keep(finished, tmp_path, "copy")
    assert order == ["context.npy", "target.npy", "manifest.json"]


def test_access_declined(colab, monkeypatch):
    monkeypatch.setenv("COLAB_STUB", "declined")
    with pytest.raises(ArtefactError, match=r"Google Drive was not mounted \(mount failed\); run this cell again and allow"):
        mount("papers")


def test_a_flush_that_fails(colab, finished, monkeypatch):
    monkeypatch.setenv("COLAB_STUB", "no flush")
    with pytest.raises(ArtefactError, match="the last files may not be there"):
        keep_all([finished], "papers", "cs")


def test_too_little_space_is_told_before(tmp_path, finished):
    with pytest.raises(ArtefactError, match=r"GB free, but 100000000.00 GB are needed; choose a smaller form"):
        check_space(tmp_path, 10**17)


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
        keep(finished, tmp_path / "drive", "copy")
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
        keep(finished, tmp_path / "drive", "copy")
    assert not list((tmp_path / "drive").iterdir())


def test_what_is_not_whole_is_not_copied(tmp_path, finished):
    (finished / "target.npy").write_bytes(b"short")
    with pytest.raises(ArtefactError, match="is missing or not as its manifest says"):
        keep(finished, tmp_path / "drive", "copy")
    assert not (tmp_path / "drive").exists()


def test_a_manifest_of_another_run(tmp_path, finished):
    manifest = json.loads((finished / "manifest.json").read_text())
    manifest["files"]["target.npy"]["sha256"] = "0" * 64
    (finished / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match=r"target.npy is missing or not as its manifest says"):
        open_finished(str(finished), tmp_path)


def test_a_folder_without_a_manifest(tmp_path):
    with pytest.raises(ArtefactError, match=r"holds no manifest.json; give one of the folders that notebook 06 made"):
        open_finished(str(tmp_path), tmp_path)


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="is a file, but a folder is needed to keep things in"):
        mount(str(tmp_path / "file"))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ArtefactError, match=r"is not a folder; give the folder that holds the embeddings' manifest.json"):
        open_finished(str(tmp_path / "none"), tmp_path)


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
