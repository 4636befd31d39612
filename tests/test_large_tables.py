"""Tables larger than the memory: runs of targets, tables in files; the same as in memory, and resumed as if never stopped."""

import dataclasses

import numpy as np
import pytest
import torch

from helpers.config import Config
from helpers.pairs.blocks import PairBlocks
from helpers.rows.files import to_float32
from helpers.training.engines import KernelEngine, SampleLoss, new_tables
from helpers.training.loop import train
from tests.planted import planted
from tests.test_kernels import RATE, graph

N, P, D, K = 900, 5000, 24, 5


def config(folder, **changes):
    how = dict(dimensions=D, negatives=K, block_pairs=800, threads=1, row_type="float32", tables_on_disk=True)
    return Config.of_preset("cs", subset="all", out=str(folder), **{**how, **changes})


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


@dataclasses.dataclass
class Fingerprinted:
    """A planted graph as `train` takes its pairs."""

    graph: object
    fingerprint: dict

    def __getattr__(self, name):
        return getattr(self.graph, name)


@pytest.mark.parametrize("row_type", ["bfloat16", "float32"])
def test_a_run_on_the_disk_resumes_as_if_never_stopped_and_learns(tmp_path, row_type):
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
    assert len(calls) > 2
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
    in_ram = new_tables(config(tmp_path, tables_on_disk=False, dimensions=90, row_type="bfloat16"), pairs.indptr, pairs.contexts)
    on_disk = new_tables(config(tmp_path, dimensions=90, row_type="bfloat16"), pairs.indptr, pairs.contexts)
    assert all(torch.equal(a, b) for a, b in zip(in_ram, on_disk, strict=True)) and in_ram[0].any()
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == ["target.npy"]


def test_the_loss_is_that_of_the_rows_as_they_are_now(tmp_path):
    data = graph(N=N, P=P)
    c = config(tmp_path)
    engine = KernelEngine(c, *data, *new_tables(c, *data[:2]))
    loss = SampleLoss(PairBlocks(*data[:2], 0, 1000), data[2], K)
    engine.train_block(0, 0, RATE)
    before = loss(engine)
    engine.flush()
    assert before == loss(engine) and to_float32(np.asarray(engine.context)).any()
