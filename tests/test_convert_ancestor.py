"""The ancestor's HDF5 and pickles become tables that notebook 01 reads; nothing in a pickle runs; what is damaged gets one sentence."""

import gzip
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from helpers.config import ROOT
from helpers.corpus.build import build_corpus
from helpers.errors import DumpError
from tests.test_readers import edges_of, papers_of

h5py = pytest.importorskip("h5py")


def write_hdf5(path, lists: dict[int, list[int]], rows_a_batch: int = 3) -> str:
    with h5py.File(path, "w") as file:
        rows = list(lists)
        for part, first in enumerate(range(0, len(rows), rows_a_batch)):
            some = rows[first : first + rows_a_batch]
            file[f"labels{part}"] = np.array(some)
            batch = file.create_dataset(f"batch{part}", (len(some),), h5py.vlen_dtype(np.int32))
            for i, row in enumerate(some):
                batch[i] = np.array(lists[row], np.int32)
    return str(path)


LISTS = {row: [] for row in range(3, 40)} | {0: [1, 2, 38], 1: [0], 2: [0, 2, -1], 38: [0], 39: [50]}  # 0 and 2: only 2 lists it again


def converted(path, folder):
    """The finished process of `python data/convert_ancestor.py`."""
    command = [sys.executable, str(ROOT / "data" / "convert_ancestor.py"), str(path), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def refused(path, folder) -> str:
    done = converted(path, folder)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    assert not list(folder.glob("[a-z]*")), "no half table looks whole"
    return done.stderr


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("form", [dict, list])
def test_hdf5_and_pickles(config, tmp_path, protocol, form):
    folder = tmp_path / "medline"
    folder.mkdir()
    write_hdf5(folder / "citations.h5", LISTS)
    titles, ids = {row: f"Title {row}" for row in range(39)}, {row: f"{row:040x}" for row in range(39)}
    for name, values in (("titles.p", titles), ("ids.PICKLE", ids)):
        (folder / name).write_bytes(pickle.dumps(values if form is dict else list(values.values()), protocol))
    assert "40 papers and 8 mentions of citations" in converted(folder / "citations.h5", tmp_path / "tables").stdout
    c = config(dumps=[tmp_path / "tables"])
    report = build_corpus(c)
    name = ids | {39: "39", 50: "50"}
    assert edges_of(c) == {(name[a], name[b]) for a, b in [(0, 1), (0, 2), (0, 38), (39, 50)]}
    rows = papers_of(c)
    assert rows[name[38]]["title"] == "Title 38" and rows["39"]["title"] is None and not rows["50"]["has_record"]
    assert report["papers"]["kept"] == 41
    assert report["citations"]["read"] == 8 and report["citations"]["dropped"] == {"duplicate citation": 3, "self citation": 1}


def test_hdf5_alone_names_papers_by_row(config, tmp_path):
    converted(write_hdf5(tmp_path / "citations.hdf5", LISTS), tmp_path / "tables")
    c = config(dumps=[tmp_path / "tables"])
    build_corpus(c)
    assert edges_of(c) == {("0", "1"), ("0", "2"), ("0", "38"), ("39", "50")}


def test_notebook_01_says_how_to_convert(config, tmp_path):
    path = write_hdf5(tmp_path / "citations.h5", LISTS)
    with pytest.raises(DumpError, match=r"citations.h5 is HDF5: make tables of it by `python data/convert_ancestor.py .*.h5 FOLDER`"):
        build_corpus(config(dumps=[path]))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_does_not_run(tmp_path):
    path = write_hdf5(tmp_path / "citations.h5", LISTS)
    proof = tmp_path / "it ran"
    by_hand = b"cos\nmkdir\n(V" + str(proof).encode() + b"\ntR."  # GLOBAL and REDUCE
    for content in [by_hand] + [pickle.dumps({0: "A title", 1: Malicious(proof)}, protocol) for protocol in (0, 2, 5)]:
        (tmp_path / "titles.pkl").write_bytes(content)
        assert "titles.pkl is not a pickle of plain dicts, lists, strings and numbers" in refused(path, tmp_path / "tables")
        assert not proof.exists()
    pickle.loads(pickle.dumps(Malicious(proof)))
    assert proof.exists(), "elsewhere it would have run"


PICKLES = {"an array": pickle.dumps(np.arange(3)), "cut": pickle.dumps({1: "a"})[:-3], "empty": b"", "no rows": pickle.dumps({"a": "one"})}


@pytest.mark.parametrize("content", [*PICKLES.values(), b"P0\n.", b"c\0os\x10\nsystem\n.", b"\x80\x09", b"(dp0\nI0\nVa\np1\ns"])
def test_pickles_that_are_not_plain_get_one_line(tmp_path, content):
    (tmp_path / "titles.pickle").write_bytes(content)
    told = refused(write_hdf5(tmp_path / "citations.h5", LISTS), tmp_path / "tables")
    assert "titles.pickle is not a pickle of plain" in told and told.strip().isprintable()


def test_a_file_that_is_not_the_ancestors_gets_one_sentence(tmp_path):
    path, tables = tmp_path / "citations.h5", tmp_path / "tables"
    write_hdf5(path, LISTS)
    whole = path.read_bytes()
    for content in (whole[:-100], gzip.compress(whole), b""):
        path.write_bytes(content)
        assert "is damaged or not the ancestor's" in refused(path, tables)
    for flag in (1, 8):  # of the type of variable length: a text, or nothing known
        changed = bytearray(whole)
        changed[changed.index(b"\x19\0\0\0\x10\0\0\0") + 1] = flag
        path.write_bytes(changed)
        assert "batch0 holds no lists" in refused(path, tables)
    others = {
        "it has no batch0": lambda file: file.create_dataset("vectors", (3, 4), "f4"),
        "batch0 holds no lists": lambda file: [file.create_dataset(name, (3,), "i8") for name in ("labels0", "batch0")],
        "batch0 does not belong": lambda file: [
            file.create_dataset("labels0", data=np.array([-1, 3])), file.create_dataset("batch0", (2,), h5py.vlen_dtype(np.int32))
        ],
        "batch0 would be larger than the file": lambda file: [  # places that were never written take no room
            file.create_dataset("labels0", (10**12,), "i8", chunks=(2,)),
            file.create_dataset("batch0", (10**12,), h5py.vlen_dtype("i4"), chunks=(2,)),
        ],
    }  # fmt: skip
    for told, fill in others.items():
        with h5py.File(path, "w") as file:
            fill(file)
        assert told in refused(path, tables)
    assert "Give an HDF5 file that exists" in refused(tmp_path / "nowhere.h5", tables)
