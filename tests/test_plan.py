"""The plan of a training: the probe measures this machine and leaves nothing, tables go where they fit, training does as planned."""

import dataclasses

import numpy as np
import pytest
import torch

from helpers.config import Config
from helpers.errors import ConfigError
from helpers.memory import Training, plan_table
from helpers.models.smoothing import choose_warm_start
from helpers.training import plan
from helpers.training.loop import train
from helpers.training.plan import placed, probe, thinned, training_of
from tests.planted import planted
from tests.test_large_tables import Fingerprinted


@pytest.fixture(scope="module")
def pairs():
    return Fingerprinted(planted(5000), {})


@pytest.fixture
def config(tmp_path):
    return Config.of_preset("cs", subset="all", out=str(tmp_path), dimensions=24, threads=1, epochs=2, block_pairs=20_000)


def test_what_decides_a_training_follows_from_its_settings(pairs, config):
    P, steps = len(pairs.contexts), len(choose_warm_start(5000))
    assert training_of(config, pairs) == Training(5000, P, 24, value_bytes=2, epochs=2, steps=steps, on_disk=None)
    other = dataclasses.replace(config, row_type="float32", warm_start=(), tables_on_disk=True)
    assert training_of(other, pairs) == Training(5000, P, 24, value_bytes=4, epochs=2, steps=0, on_disk=True)
    walks = dataclasses.replace(config, pairs_from="walks")
    assert training_of(walks, pairs).P > P


def test_the_probe_takes_a_part_of_the_ram_that_is_there(pairs, monkeypatch):
    monkeypatch.setattr("helpers.training.plan.available_ram", lambda: 100 << 20)
    for D in (64, 4096, 65_536):
        papers = len(thinned(pairs, D)[0]) - 1
        assert papers >= min(pairs.papers, 256) and (papers <= 512 or 2 * 4 * papers * D <= 25 << 20)


def test_a_small_graph_is_probed_whole_and_a_large_one_thinned(pairs, monkeypatch):
    indptr, contexts = thinned(pairs, 64)
    assert np.array_equal(indptr, pairs.indptr) and np.array_equal(contexts, pairs.contexts)
    monkeypatch.setattr(plan, "MOST_PAPERS", 1300)
    indptr, contexts = thinned(pairs, 64)
    n = len(indptr) - 1
    assert 1000 < n < 1400 and indptr[-1] == len(contexts) and contexts.min() >= 0 and contexts.max() == n - 1
    mean = len(pairs.contexts) / 5000
    assert 0.75 * mean < len(contexts) / n < 1.4 * mean, "as many contexts a target"
    low, of_all = (np.bincount(ids, minlength=m)[: m // 10].sum() / len(ids) for ids, m in ((contexts, n), (pairs.contexts, 5000)))
    assert low == pytest.approx(of_all, abs=0.1), "the most cited are as hot"


@pytest.mark.parametrize("engine", ["kernel", "torch"])
def test_the_probe_measures_and_leaves_nothing(pairs, config, tmp_path, monkeypatch, engine):
    monkeypatch.setattr(plan, "PROBE_SECONDS", 0.2)
    c = dataclasses.replace(config, engine=engine, tables_on_disk=True)
    rate = probe(c, pairs)
    assert 1e3 < rate < 1e13 and not list(tmp_path.iterdir())
    assert any("second" in line[-1] or "minute" in line[-1] for line in plan_table(training_of(c, pairs), rate))


def test_training_puts_the_targets_where_they_fit(pairs, config, tmp_path, monkeypatch):
    in_ram = train(dataclasses.replace(config, out=str(tmp_path / "ram")), pairs)
    needs = training_of(config, pairs)
    both, one = (dataclasses.replace(needs, on_disk=on_disk).needs("RAM") for on_disk in (False, True))
    assert one < both
    monkeypatch.setattr(plan, "available_ram", lambda: both - 1)
    assert placed(config, pairs).tables_on_disk is True
    files = []

    def look(*tables):
        files.extend(path.name for path in (tmp_path / "disk" / "tables").iterdir())

    on_disk = train(dataclasses.replace(config, out=str(tmp_path / "disk")), pairs, look)
    assert set(files) == {"target.npy"}, "the contexts stay in memory"
    assert torch.equal(in_ram.target, on_disk.target) and torch.equal(in_ram.context, on_disk.context)
    monkeypatch.setattr(plan, "available_ram", lambda: one - 1)
    with pytest.raises(ConfigError, match=r"5,000 papers x 24 need 0\.\d GB of RAM, but 0\.\d GB are available; .* would fit"):
        train(dataclasses.replace(config, out=str(tmp_path / "none")), pairs)
    assert not (tmp_path / "none").exists(), "nothing was made"
