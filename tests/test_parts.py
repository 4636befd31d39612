"""Tables larger than the memory: runs of targets, contexts in parts; against the plain model, and resumed as if never stopped."""

import dataclasses

import numpy as np
import pytest
import torch

from helpers.config import Config
from helpers.errors import ConfigError
from helpers.models import kernels
from helpers.pairs.blocks import PairBlocks, part_rows
from helpers.pairs.shards import pair_source
from helpers.rows.bfloat16 import to_float32
from helpers.rows.tables import HeldPart
from helpers.training.engines import KernelEngine, SampleLoss, new_tables
from helpers.training.loop import train
from tests.planted import planted
from tests.test_kernels import RATE, graph, judged, rows

N, P, D, K, PARTS = 900, 5000, 24, 5, 3


def config(folder, **changes):
    how = dict(dimensions=D, negatives=K, block_pairs=800, threads=1, row_type="float32", tables_on_disk=True, context_parts=PARTS)
    return Config.of_preset("cs", subset="all", out=str(folder), **{**how, **changes})


def all_pairs(indptr, contexts):
    return sorted(zip(np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)).tolist(), contexts.tolist(), strict=True))


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_every_pair_is_trained_once_an_epoch_in_its_part(parts):
    indptr, contexts, _ = graph(N=N, P=P)
    source = PairBlocks(indptr, contexts, 0, 500, parts)
    assert source.blocks == parts * max(1, round(P / parts / 500))
    for epoch in range(2):
        seen, held = [], []
        for block in range(source.blocks):
            papers, order, starts, local = source.by_target(epoch, block)
            part = source.part(epoch, block)
            held += [part] if part not in held[-1:] else []
            for i in order.tolist():
                own = local[starts[i] : starts[i + 1]]
                target = i if papers is None else int(papers[i])
                seen += [(target, int(c)) for c in (own if parts == 1 else part_rows(N, parts, part)[own])]
        assert sorted(seen) == all_pairs(indptr, contexts)
        assert held == (list(range(parts)) if epoch == 0 else list(range(parts))[::-1]), "each part is held once"


def test_parts_share_out_all_papers_and_the_most_cited_alike():
    parts = [part_rows(10_000, PARTS, part) for part in range(PARTS)]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(10_000))
    assert all((np.diff(part) > 0).all() and part[0] < PARTS * 256 for part in parts)


def test_targets_of_large_graphs_come_in_runs_of_neighbours():
    indptr, contexts, _ = graph(N=70_000, P=140_000)
    source = PairBlocks(indptr, contexts, 0, 10_000)
    order = np.concatenate([source.targets(0, block) for block in range(source.blocks)])
    trained = np.flatnonzero(np.diff(indptr))
    run = len(trained) >> 14
    assert run == 3 and np.array_equal(np.sort(order), trained)
    places = np.searchsorted(trained, order)
    assert (np.diff(places) == 1).mean() > 0.6 and (np.diff(places) != 1).sum() > 0.9 * len(trained) / run
    assert not np.array_equal(order, np.concatenate([source.targets(1, block) for block in range(source.blocks)]))


@pytest.mark.parametrize("optimizer", ["sgd", "rowwise_adagrad"])
def test_training_in_parts_equals_the_plain_model(tmp_path, monkeypatch, optimizer):
    """The very steps that were trained, in the ids of the whole table, through the plain model; negatives come from the held part."""
    data, steps, train_steps = graph(N=N, P=P), [], kernels.train_steps

    def recorded(count, targets, sizes, terms, *rest):
        used = int(sizes[:count].sum()) * (1 + K)
        steps.append((targets[:count].copy(), sizes[:count].copy(), engine._held.ids[terms[:used]]))
        train_steps(count, targets, sizes, terms, *rest)

    monkeypatch.setattr(kernels, "train_steps", recorded)
    c = config(tmp_path, optimizer=optimizer)
    (tmp_path / "tables").mkdir()
    start = rows(N, D, 1), rows(N, D, 2)
    tables = new_tables(dataclasses.replace(c, warm_start=()), *data[:2])
    for table, values in zip(tables, start, strict=True):
        table[:] = torch.from_numpy(values)
    engine = KernelEngine(c, *data, *tables)
    for epoch in range(2):
        for block in range(engine.blocks.blocks):
            engine.train_block(epoch, block, RATE)
    ids = torch.arange(N).view(3, -1)
    as_it_is = engine.look_up("context", ids).clone().view(N, D)
    engine.flush()
    targets, sizes, terms = (np.concatenate(part) for part in zip(*steps, strict=True))
    assert int(sizes.sum()) == 2 * P
    expected = judged((len(targets), targets, sizes, terms), K, *start, optimizer)
    got = [engine.target.numpy(), engine.context.numpy()]
    got += [state.numpy() for state in engine.state.values()]
    for e, g in zip(expected, got, strict=False):
        np.testing.assert_allclose(g, e, atol=2e-3, rtol=5e-3)
    assert torch.equal(as_it_is, engine.context), "rows are read as they are now, held or not"
    drawn = np.zeros(N)
    place = 0
    for size in sizes:
        drawn += np.bincount(terms[place + size : place + size * (1 + K)], minlength=N)
        place += size * (1 + K)
    weights = np.diff(data[0]) ** c.noise_power
    wanted = drawn.sum() * weights / weights.sum()
    assert abs(drawn[:100].sum() / wanted[:100].sum() - 1) < 0.1 and abs(drawn[500:].sum() / wanted[500:].sum() - 1) < 0.1


@pytest.mark.parametrize("state", [np.zeros(0, np.float32), np.arange(1000, dtype=np.float32)])
def test_a_held_part_goes_back_to_the_table(state):
    stored = np.arange(2000, dtype=np.float32).reshape(1000, 2)
    held, expected = HeldPart(stored, state, 2), stored.copy()
    for part in (0, 1, 0):
        held.hold(part)
        assert np.array_equal(held.rows, expected[part_rows(1000, 2, part)])
        held.rows += 1
        held.sums += 1
        expected[part_rows(1000, 2, part)] += 1
        assert np.array_equal(held[np.arange(1000).reshape(10, 100)].reshape(1000, 2), expected)
    held.flush()
    assert np.array_equal(stored, expected)
    if len(state):
        assert np.array_equal(np.sort(state - np.arange(1000))[[0, 487, 488, -1]], [1, 1, 2, 2])


@dataclasses.dataclass
class Fingerprinted:
    """A planted graph as `train` takes its pairs."""

    graph: object
    fingerprint: dict

    def __getattr__(self, name):
        return getattr(self.graph, name)


@pytest.mark.parametrize("row_type", ["bfloat16", "float32"])
def test_a_run_in_parts_resumes_as_if_never_stopped_and_learns(tmp_path, row_type):
    pairs = Fingerprinted(planted(1500, heldout=300), {})
    how = dict(row_type=row_type, epochs=3, block_pairs=2000, learning_rate=0.1)
    unbroken, stopped = config(tmp_path / "a", **how), config(tmp_path / "b", checkpoint_minutes=0, **how)
    whole = train(unbroken, pairs)

    class Stop(Exception):
        pass

    calls, train_block = [], KernelEngine.train_block

    def stops_in_the_second_epoch(self, epoch, block, *rest):
        calls.append(block)
        if (epoch, block) == (1, self.blocks.blocks // 2):
            raise Stop
        return train_block(self, epoch, block, *rest)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(KernelEngine, "train_block", stops_in_the_second_epoch)
        train(stopped, pairs)
    assert len(calls) > 2 * PARTS
    resumed = train(stopped, pairs)
    for ours, expected in zip((resumed.target, resumed.context), (whole.target, whole.context), strict=True):
        assert torch.equal(ours, expected)
    assert list(whole.state) == ["target_sums", "context_sums"]
    assert all(torch.equal(values, resumed.state[name]) for name, values in whole.state.items())
    assert [row["loss"] for row in whole.log] == [row["loss"] for row in resumed.log]
    assert whole.log[-1]["loss"] < 0.9 * whole.log[0]["loss"]
    assert not (tmp_path / "a" / "tables").exists(), "tables that are files are gone when they are in a checkpoint"


def test_a_warm_start_through_files_equals_that_in_memory(tmp_path):
    pairs = planted(3000)
    in_ram = new_tables(
        config(tmp_path, tables_on_disk=False, context_parts=1, dimensions=90, row_type="bfloat16"), pairs.indptr, pairs.contexts
    )
    on_disk = new_tables(config(tmp_path, dimensions=90, row_type="bfloat16"), pairs.indptr, pairs.contexts)
    assert all(torch.equal(a, b) for a, b in zip(in_ram, on_disk, strict=True)) and in_ram[0].any()
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == ["context.npy", "target.npy"]


def test_the_loss_is_that_of_the_rows_as_they_are_now(tmp_path):
    data = graph(N=N, P=P)
    c = config(tmp_path)
    engine = KernelEngine(c, *data, *new_tables(c, *data[:2]))
    loss = SampleLoss(PairBlocks(*data[:2], 0, 1000), data[2], K)
    engine.train_block(0, 0, RATE)
    before = loss(engine)
    engine.flush()
    assert before == loss(engine) and to_float32(np.asarray(engine.context)).any()


def test_parts_that_cannot_work_are_refused(tmp_path):
    indptr, contexts, _ = graph(N=N, P=P)
    with pytest.raises(ConfigError, match="context_parts = 8 cannot work: 900 papers can be in 3 parts at most"):
        pair_source(config(tmp_path, context_parts=8), indptr, contexts)
    with pytest.raises(ConfigError, match="pairs from walks cannot be in parts"):
        pair_source(config(tmp_path, pairs_from="walks"), indptr, contexts)
    with pytest.raises(
        ConfigError,
        match="context_parts = 3 cannot work: it must be 1 with the torch engine or an optimizer other than rowwise_adagrad and sgd",
    ):
        config(tmp_path, engine="torch")
