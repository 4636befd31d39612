"""A session that may die at any minute, in short (`python -m tests.benchmarks faults` is the long form): killed, damaged, out of disk."""

import shutil
from pathlib import Path

import pytest

from helpers.artefacts import read_manifest
from helpers.corpus.build import build_corpus
from tests.faults import full_disk, kills, stages
from tests.faults.damage import damage_newest
from tests.faults.nursery import nursery
from tests.faults.trainee import write_graph
from tests.test_training import DAMAGES


@pytest.fixture(scope="module")
def start():
    with nursery() as function:
        yield function


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graph")
    write_graph(folder)
    return folder


@pytest.fixture(scope="module")
def unbroken(start, graph):
    return kills.run(start, graph / "unbroken", graph)


def test_killed_at_random_moments_it_trains_every_block_once(start, graph, unbroken, tmp_path):
    killed = kills.run(start, tmp_path / "killed", graph, kills=4)
    assert (killed.kills, killed.lost, killed.doubled, kills.differing(killed, unbroken)) == (4, 0, 0, 0), killed.hits
    assert killed.log() == unbroken.log(), "a gap, a double, or other losses"
    assert not list((killed.folder / "run").rglob(".*")), "nothing temporary is left"


def test_killed_it_trains_tables_on_the_disk_every_block_once(start, graph, unbroken, tmp_path):
    killed = kills.run(start, tmp_path / "killed", graph, kills=3, seed=1, wrong="on_disk")
    assert (killed.kills, killed.lost, killed.doubled, kills.differing(killed, unbroken)) == (3, 0, 0, 0), killed.hits
    assert killed.log() == unbroken.log() and not (killed.folder / "run" / "tables").exists()


@pytest.mark.parametrize("wrong", ["skip", "double"])
def test_the_harness_tells_a_trainer_that_resumes_wrongly(start, graph, unbroken, tmp_path, wrong):
    killed = kills.run(start, tmp_path / "killed", graph, kills=1, wrong=wrong)
    assert (killed.lost, killed.doubled) == ((1, 0) if wrong == "skip" else (0, 1))
    assert kills.differing(killed, unbroken) == 4


def test_the_lineage_is_counted_from_the_ledger_alone():
    ledger = "0 start -\n0 block 0 0\n0 save a\n0 block 0 1\n0 wrote a A\n1 start A\n1 block 0 1\n1 block 0 1\n1 save b\n1 wrote b B\n"
    assert kills.lineage(ledger, "A") == {(0, 0): 1}, "what was trained after the save began is not in it"
    assert kills.lineage(ledger, "B") == {(0, 0): 1, (0, 1): 2}


def test_no_damaged_checkpoint_is_ever_loaded(unbroken, graph, monkeypatch):
    assert damage_newest(unbroken.folder, graph, flips=5) == (len(DAMAGES) + 5, 0)
    monkeypatch.setattr("helpers.rows.files.sha256", lambda path: read_manifest(path.parent, "")["files"][path.name]["sha256"])  # no check
    assert damage_newest(unbroken.folder, graph, ("flipped byte", "empty shard")) == (2, 1)


def test_a_training_on_a_full_disk(start, tmp_path):
    found = full_disk.on_a_small_disk(start, tmp_path / "full", levels=3)
    if found is None:
        pytest.skip("this system gives a test no small disk of its own (unshare, tmpfs)")
    assert found == {"levels": 3, "losses": 0}


def test_every_other_stage_killed(start, tmp_path):
    assert stages.kill_stages(start, tmp_path / "place", 1) == (len(stages.STAGES), 0)


def test_shards_half_deleted_by_a_killed_process_do_not_look_finished(tmp_path, monkeypatch):
    (tmp_path / "dump.csv").write_text("citing,cited\na,b\nb,c\nc,a\n")
    config = stages.settings(tmp_path / "place")
    whole = build_corpus(config)

    delete = shutil.rmtree

    def die_in_the_middle(folder, **named):
        if found := next(Path(folder).rglob("citations.arrow"), None):
            found.unlink()
            raise KeyboardInterrupt
        delete(folder, **named)

    (config.folder("corpus") / "report.json").unlink()  # else it stays as it is
    monkeypatch.setattr(shutil, "rmtree", die_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(config)
    monkeypatch.undo()
    (config.folder("corpus") / "report.json").unlink()
    assert build_corpus(config) == whole
