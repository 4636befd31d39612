"""The loop: it learns planted topics, resumes as if never stopped, refuses what does not learn and what is not its own."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.config import ROOT
from helpers.corpus.build import build_corpus
from helpers.errors import ArtefactError, TrainingError
from helpers.export.drive import checkpoints_on_drive
from helpers.neighbors.evaluate import validation_scores
from helpers.pairs.build import Pairs, build_pairs
from helpers.training import engines, loop
from helpers.training.checkpoint import newest_checkpoint, trained_checkpoint
from helpers.training.loop import LOG_COLUMNS, chance_loss, train


@pytest.fixture
def run(config, dump, community_edges):
    """(config, pairs) of the planted communities, ready to train: run(epochs=3)."""
    edges = dump("edges.csv", "citing,cited", *(",".join(edge) for edge in community_edges))

    def make(**changes):
        c = config(dumps=[edges], heldout=0.05, batch_pairs=256, block_pairs=1000, **changes)
        if not c.folder("pairs").exists():
            build_corpus(c)
            build_pairs(c)
        return c, Pairs(c)

    return make


def log_of(config) -> list[dict]:
    with open(config.folder("log.csv"), newline="") as file:
        return list(csv.DictReader(file))


def test_it_learns_and_says_so(run):
    c, pairs = run(epochs=8, learning_rate=0.1)
    result = train(c, pairs, validation_scores(pairs))
    rows = log_of(c)
    assert tuple(rows[0]) == LOG_COLUMNS and result.epoch == 8
    assert [row["epoch"] for row in rows if row["mrr"]] == [str(epoch) for epoch in range(9)]
    losses = [float(row["loss"]) for row in rows[1:]]
    assert losses[-1] < 0.65 * chance_loss(c.negatives) and losses[-1] < 0.8 * losses[0]
    assert int(rows[-1]["pairs"]) == 8 * len(pairs.contexts) and len(rows) == 1 + 8 * round(len(pairs.contexts) / 1000)
    rates = [float(row["learning_rate"]) for row in rows[1:]]
    assert rates[0] == c.learning_rate and rates == sorted(rates, reverse=True) and rates[-1] >= 0.1 * c.learning_rate
    assert list(c.folder("tensorboard").glob("events.out.tfevents.*"))


def test_tensorboard_holds_the_curves(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    c, pairs = run(epochs=2)
    train(c, pairs, validation_scores(pairs))
    events = EventAccumulator(str(c.folder("tensorboard")))
    events.Reload()
    rows = log_of(c)[1:]
    assert [event.step for event in events.Scalars("loss")] == [int(row["pairs"]) for row in rows]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([float(row["loss"]) for row in rows], rel=1e-5)
    assert len(events.Scalars("mrr")) == 2


def test_cold_training_through_the_loop_equals_the_plain_model(run):
    """The whole loop (blocks, shuffling, noise, rate, batches) against PlainSGNS fed the same batches."""
    from helpers.models.sgns import PlainSGNS
    from helpers.training.engines import new_tables
    from helpers.training.torch_engine import TorchEngine

    c, pairs = run(epochs=2, warm_start=(), optimizer="sgd", learning_rate=0.05, engine="torch", row_type="float32")
    seen, original = [], TorchEngine._train

    def spy(engine, batch, rate, seed):
        targets, others = (rows.ids[rows.places] for rows in batch)
        seen.append((targets, others[: len(targets)], others[len(targets) :].view(-1, c.shared_negatives), rate))
        return original(engine, batch, rate, seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchEngine, "_train", spy)
        result = train(c, pairs)
    plain = PlainSGNS(*new_tables(c, pairs.indptr, pairs.contexts))
    for targets, contexts, negatives, rate in seen:
        plain.zero_grad()
        plain(targets, contexts, negatives.expand(len(targets), -1), c.negatives / c.shared_negatives).backward()
        torch.optim.SGD(plain.parameters(), lr=rate).step()
    assert torch.allclose(plain.target.weight, result.target, atol=1e-5)
    assert torch.allclose(plain.context.weight, result.context, atol=1e-5)
    trained = [pair for targets, contexts, _, _ in seen for pair in zip(targets.tolist(), contexts.tolist(), strict=True)]
    every = list(zip(np.repeat(np.arange(pairs.papers), np.diff(pairs.indptr)).tolist(), pairs.contexts.tolist(), strict=True))
    assert sorted(trained) == sorted(every * 2), "every pair once an epoch"


@pytest.mark.parametrize(
    ("optimizer", "more"),
    [
        ("sgd", {"threads": 1}),
        ("rowwise_adagrad", {"threads": 1, "tables_on_disk": True}),
        ("rowwise_adagrad", {"engine": "torch"}),
        ("adam", {}),
    ],
)
def test_a_resumed_run_equals_the_unbroken_one(run, tmp_path, optimizer, more):
    rate = 0.02 if optimizer == "sgd" else 0.1
    c, pairs = run(epochs=4, optimizer=optimizer, learning_rate=rate, warm_up=0.2, checkpoint_minutes=0, **more)  # one a block
    unbroken = train(c, pairs, validation_scores(pairs))
    d = dataclasses.replace(c, out=str(tmp_path / "second"))
    for name in ("corpus", "pairs"):
        d.folder(name).parent.mkdir(exist_ok=True)
        d.folder(name).symlink_to(c.folder(name))

    class Stop(Exception):
        pass

    def stop_after_the_third_epoch(*tables):
        calls.append(1)
        if len(calls) == 4:  # called at the start and after each epoch, before the checkpoint
            raise Stop
        return {"mrr": 0.5}

    calls = []
    with pytest.raises(Stop):
        train(d, pairs, stop_after_the_third_epoch)
    blocks = len(log_of(c)) // 4
    last = newest_checkpoint(d, pairs.fingerprint)
    assert (last.epoch, last.block) == (2, blocks - 1) and last.path.name == f"{3 * blocks - 1:09d}"
    resumed = train(d, pairs, validation_scores(pairs))
    assert (resumed.epoch, resumed.block) == (4, 0)
    assert torch.equal(unbroken.target, resumed.target) and torch.equal(unbroken.context, resumed.context)
    if optimizer == "rowwise_adagrad":
        assert torch.equal(unbroken.state["target_sums"], resumed.state["target_sums"])
    columns = ("epoch", "block", "pairs", "learning_rate", "loss")
    assert [[row[name] for name in columns] for row in log_of(c)] == [[row[name] for name in columns] for row in log_of(d)]


def test_a_killed_run_goes_on(run):
    """A real process, killed with -9 in the middle of an epoch, then run again."""
    c, pairs = run(epochs=200, checkpoint_minutes=0)
    script = (
        "import sys; from helpers.config import Config; from helpers.pairs.build import Pairs; from helpers.training.loop import train\n"
        f"c = Config.of_preset('cs', **{ {f.name: getattr(c, f.name) for f in dataclasses.fields(c) if f.name != 'preset'}!r})\n"
        "train(c, Pairs(c))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while len(list(c.folder("checkpoints").glob("[0-9]*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = newest_checkpoint(c, pairs.fingerprint)
    assert (found.epoch, found.block) >= (0, 2) and found.epoch < 200
    d = dataclasses.replace(c, epochs=found.epoch + 2, checkpoint_minutes=10)
    assert train(d, pairs).epoch == found.epoch + 2
    places = [(int(row["epoch"]), int(row["block"])) for row in log_of(d)]
    blocks = max(block for _, block in places)
    assert places == [(0, 0), *((epoch, block) for epoch in range(1, d.epochs + 1) for block in range(1, blocks + 1))], "no gap, no double"
    assert not list(d.folder("checkpoints").glob(".*")), "what the killed process left half-written is gone"


def test_a_finished_run_is_not_trained_again(run, capsys):
    c, pairs = run(epochs=2)
    first = train(c, pairs)
    again = train(c, pairs)
    assert torch.equal(first.target, again.target) and "All 2 epochs are done: nothing is trained." in capsys.readouterr().out


def test_no_epochs_keep_the_start(run):
    c, pairs = run(epochs=0)
    assert train(c, pairs).epoch == 0 and trained_checkpoint(c, pairs.fingerprint).epoch == 0


def damage(folder: Path, how: str, other: Path) -> None:
    """Damage a checkpoint in one of DAMAGES' ways; other: a whole checkpoint of another run."""
    shard, manifest = folder / "target-00000.npy", folder / "manifest.json"
    match how:
        case "flipped byte":
            content = bytearray(shard.read_bytes())
            content[-1] ^= 1
            shard.write_bytes(content)
        case "flipped byte of the sums":
            content = bytearray((folder / "context_sums-00000.npy").read_bytes())
            content[-2] ^= 64
            (folder / "context_sums-00000.npy").write_bytes(content)
        case "truncated shard":
            os.truncate(shard, shard.stat().st_size - 8)
        case "longer shard":
            shard.write_bytes(shard.read_bytes() + bytes(8))
        case "empty shard":
            os.truncate(shard, 0)
        case "missing shard":
            (folder / "context-00000.npy").unlink()
        case "shard of another table":
            shard.write_bytes((folder / "context-00000.npy").read_bytes())
        case "no manifest":
            manifest.unlink()
        case "empty manifest":
            manifest.write_text("")
        case "truncated manifest":
            os.truncate(manifest, manifest.stat().st_size // 2)
        case "manifest that is a list":
            manifest.write_text("[]")
        case "flipped digit in the manifest":
            manifest.write_text(manifest.read_text().replace('"epoch": 2', '"epoch": 3', 1))
        case "manifest of another run":
            manifest.write_bytes((other / "manifest.json").read_bytes())


DAMAGES = (
    "flipped byte", "flipped byte of the sums", "truncated shard", "longer shard", "empty shard", "missing shard", "shard of another table",
    "no manifest", "empty manifest", "truncated manifest", "manifest that is a list", "flipped digit in the manifest",
    "manifest of another run",
)  # fmt: skip


def test_a_damaged_checkpoint_is_passed_over(run, tmp_path, capsys):
    c, pairs = run(epochs=2, checkpoint_minutes=0)
    train(c, pairs)
    older, newest = sorted(c.folder("checkpoints").iterdir())
    another = dataclasses.replace(c, epochs=3, learning_rate=0.02, out=str(tmp_path / "another"))
    Path(another.out).mkdir()
    for name in ("corpus", "pairs"):
        another.folder(name).symlink_to(c.folder(name))
    other = train(another, pairs).path
    shutil.copytree(c.folder("checkpoints"), tmp_path / "whole")
    for how in DAMAGES:
        for path in (newest, older):
            damage(path, how, other)
            kept = {file: file.read_bytes() for file in c.folder("checkpoints").rglob("*") if file.is_file()}
            if path is newest:
                found = newest_checkpoint(c, pairs.fingerprint)
                assert found.path == older and f"Checkpoint {newest.name} is passed over: " in capsys.readouterr().out, how
            else:
                with pytest.raises(ArtefactError, match="holds no whole checkpoint, but 2 damaged: put a whole one there, or delete that"):
                    train(c, pairs)
            assert kept == {file: file.read_bytes() for file in c.folder("checkpoints").rglob("*") if file.is_file()}, "nothing overwritten"
        shutil.rmtree(c.folder("checkpoints"))
        shutil.copytree(tmp_path / "whole", c.folder("checkpoints"))
    damage(newest, "flipped byte", other)
    d = dataclasses.replace(c, epochs=3)
    assert train(d, pairs).epoch == 3 and newest_checkpoint(d, pairs.fingerprint).epoch == 3


def test_another_runs_checkpoint_is_refused_and_named(run):
    c, pairs = run(epochs=1)
    train(c, pairs)
    before = sorted(os.listdir(c.folder("checkpoints")))
    with pytest.raises(ArtefactError, match=r"belongs to another run \(dimensions 8 there, 16 here\): choose another --out"):
        train(dataclasses.replace(c, dimensions=16), pairs)
    with pytest.raises(ArtefactError, match="other training pairs"):
        newest_checkpoint(c, {**pairs.fingerprint, "contexts.npy": "0"})
    assert sorted(os.listdir(c.folder("checkpoints"))) == before


def test_no_checkpoint_yet(run):
    c, pairs = run(epochs=1)
    with pytest.raises(ArtefactError, match="holds no whole checkpoint yet; run notebook 03_train_embeddings first"):
        trained_checkpoint(c, pairs.fingerprint)


def test_a_new_machine_goes_on_from_drive(run, tmp_path, capsys):
    c, pairs = run(epochs=3, threads=1, checkpoint_minutes=0)
    unbroken = train(c, pairs)
    shutil.rmtree(c.folder("checkpoints"))
    keep, place = checkpoints_on_drive(str(tmp_path / "drive"), "cs", 2, 10**6)
    calls = []

    def die(*tables):
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(c, pairs, die, keep=keep)
    keep(max(c.folder("checkpoints").iterdir()))  # which the thread may have had no time for
    newest = max(place.iterdir())
    shutil.rmtree(c.folder("checkpoints"))  # a new machine
    resumed = train(c, pairs, keep=keep, elsewhere=place)
    assert f"Checkpoint {newest.name} was fetched from {place}" in capsys.readouterr().out
    assert resumed.epoch == 3 and torch.equal(unbroken.target, resumed.target) and torch.equal(unbroken.context, resumed.context)
    assert max(place.iterdir()).name == resumed.path.name, "the last one is always kept"

    shutil.rmtree(c.folder("checkpoints"))
    (place / "000000099").mkdir()  # a copy that was cut off
    damage(sorted(place.iterdir())[-2], "truncated shard", place)
    older = min(place.iterdir())
    found = newest_checkpoint(c, pairs.fingerprint, elsewhere=place)
    assert found.path == c.folder("checkpoints") / older.name and "is passed over" in capsys.readouterr().out
    assert [path.name for path in c.folder("checkpoints").iterdir()] == [older.name], "what is damaged does not come over"
    with pytest.raises(ArtefactError, match=r"belongs to another run \(dimensions 8 there, 16 here\)"):
        train(dataclasses.replace(c, dimensions=16, out=str(tmp_path / "new")), pairs, keep=keep, elsewhere=place)


def test_a_run_beside_another_in_the_same_folder_is_stopped(run):
    c, pairs = run(epochs=2, checkpoint_minutes=0)
    original, calls = engines.KernelEngine.train_block, []

    def meanwhile(engine, *arguments):
        calls.append(1)
        if len(calls) == 2:  # another process has come further
            further = c.folder("checkpoints") / "000000007"
            further.mkdir()
        return original(engine, *arguments)

    engines.KernelEngine.train_block = meanwhile
    try:
        with pytest.raises(ArtefactError, match="000000007 was written by another run that is further along; stop one of the two"):
            train(dataclasses.replace(c, epochs=1), pairs)
    finally:
        engines.KernelEngine.train_block = original


def test_only_the_newest_two_checkpoints_stay(run):
    c, pairs = run(epochs=5, checkpoint_minutes=0)
    train(c, pairs)
    blocks = len(log_of(c)) // 5
    assert sorted(path.name for path in c.folder("checkpoints").iterdir()) == [f"{5 * blocks - 1:09d}", f"{5 * blocks:09d}"]
    manifest = json.loads((c.folder("checkpoints") / f"{5 * blocks:09d}" / "manifest.json").read_text())
    assert manifest["config"]["dimensions"] == 8 and (manifest["epoch"], manifest["block"]) == (5, 0)


def test_a_loss_that_stays_at_chance_stops_the_run(run, monkeypatch):
    monkeypatch.setattr(loop, "ALARM_PAIRS", 3000)
    c, pairs = run(epochs=5, warm_start=(), learning_rate=1e-8)
    with pytest.raises(
        TrainingError, match=r"The loss stays at chance \(4.15\d, chance 4.159\) after 3,\d+ pairs: .* try a higher learning rate"
    ):
        train(c, pairs)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(run, monkeypatch):
    c, pairs = run(epochs=1)
    train(c, pairs)
    d = dataclasses.replace(c, epochs=3)
    found = newest_checkpoint(d, pairs.fingerprint)
    original = engines.KernelEngine.train_block

    def poisoned(engine, *arguments):
        engine.context[:] = float("nan")
        return original(engine, *arguments)

    monkeypatch.setattr(engines.KernelEngine, "train_block", poisoned)
    with pytest.raises(TrainingError, match=r"The loss is nan after .* lower the learning rate \(0.07\)"):
        train(d, pairs)
    assert newest_checkpoint(d, pairs.fingerprint).path == found.path


def test_a_learning_rate_that_is_far_too_high_is_told(run):
    c, pairs = run(epochs=20, optimizer="sgd", learning_rate=100)
    with pytest.raises(TrainingError, match=r"The loss (is nan|is inf|stays at chance).*learning rate \((now )?100"):
        train(c, pairs)


def test_a_gpu_that_is_not_there(run):
    if torch.cuda.is_available():
        return
    c, pairs = run(epochs=1, device="cuda")
    with pytest.raises(TrainingError, match="no GPU that torch can use"):
        train(c, pairs)
