"""A finished run extended with a newer dump: what known and new papers start from, what is trained, what is refused, and a kill."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from helpers.config import ROOT, Config
from helpers.corpus.build import build_corpus, open_corpus
from helpers.errors import ArtefactError
from helpers.export.embeddings import open_answer
from helpers.pairs.build import Pairs, build_pairs
from helpers.rows.tables import FIRST_SUM
from helpers.training import loop
from helpers.training.checkpoint import newest_checkpoint, trained_checkpoint
from helpers.training.engines import SHARE, extended_tables, known_rows, pairs_with_new
from helpers.training.loop import train

KNOWN = 220  # of the 300 papers of the communities
CHAIN = [("p298", "q1"), ("q1", "q2"), ("q2", "q3"), ("lone", "lonely")]  # q1 cites a new paper alone, and so on; two reach nobody

KILLED = """
import os, signal, sys
from helpers.config import Config
from helpers.pairs.build import Pairs
from helpers.training.loop import train
c = Config(**eval(sys.argv[1]))
calls = []
def evaluate(target, context):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
train(c, Pairs(c), evaluate)
"""


def prepared(c: Config) -> tuple[Config, Pairs]:
    build_corpus(c)
    build_pairs(c)
    return c, Pairs(c)


@pytest.fixture
def old(config, dump, community_edges, tmp_path) -> tuple[Config, Pairs]:
    """A finished run of the communities' first papers."""
    edges = [edge for edge in community_edges if int(edge[0][1:]) < KNOWN]
    named = dump("older.csv", "citing,cited", *(",".join(edge) for edge in edges))
    c, pairs = prepared(config(dumps=[named], out=str(tmp_path / "old"), epochs=3, heldout=0, block_pairs=1000, threads=1))
    train(c, pairs)
    return c, pairs


@pytest.fixture
def newer(old, config, dump, community_edges):
    """newer(**settings): (config, pairs) of all the communities' papers and CHAIN, to extend `old` with."""
    named = dump("newer.csv", "citing,cited", *(",".join(edge) for edge in [*community_edges[::-1], *CHAIN]))
    settings = dict(dumps=[named], extends=old[0].out, epochs=3, heldout=0.02, block_pairs=500, threads=1, checkpoint_minutes=0)
    return lambda **changes: prepared(config(**settings | changes))


def rows_by_id(c: Config) -> dict[str, int]:
    return {name: row for row, name in enumerate(open_corpus(c)[0]["paper_id"].to_pylist())}


@pytest.mark.parametrize(("row_type", "optimizer", "on_disk"), [("bfloat16", "rowwise_adagrad", False), ("float32", "sgd", True)])
def test_known_rows_stay_and_new_rows_are_means(config, dump, community_edges, tmp_path, row_type, optimizer, on_disk, monkeypatch, capsys):
    monkeypatch.setattr("helpers.training.engines.PIECE", 50)  # several pieces
    edges = [",".join(edge) for edge in community_edges]
    settings = dict(heldout=0, epochs=2, threads=1, row_type=row_type, optimizer=optimizer, learning_rate=0.02, tables_on_disk=on_disk)
    older = dump("older.csv", "citing,cited", *(edge for edge in edges if int(edge.split(",")[0][1:]) < KNOWN))
    old, old_pairs = prepared(config(dumps=[older], out=str(tmp_path / "old"), **settings))
    trained = train(old, old_pairs)
    newer = dump("newer.csv", "citing,cited", *edges[::-1], *(",".join(edge) for edge in CHAIN))
    c, pairs = prepared(config(dumps=[newer], extends=old.out, **settings))
    capsys.readouterr()
    *tables, state = extended_tables(c, pairs)
    old_row, row = rows_by_id(old), rows_by_id(c)
    assert any(row[name] != old_row[name] for name in old_row), "the newer corpus has other row numbers"
    known = [row[name] for name in old_row]
    assert list(state) == list(trained.state) == (["target_sums", "context_sums"] if optimizer == "rowwise_adagrad" else [])
    for new, before in zip((*tables, *state.values()), (trained.target, trained.context, *trained.state.values()), strict=True):
        assert torch.equal(new[known], before[list(old_row.values())])
    unknown = [name for name in row if name not in old_row]
    if optimizer == "rowwise_adagrad":
        assert (state["target_sums"][[row[name] for name in unknown]] == FIRST_SUM).all()
    contexts_of = {name: pairs.contexts[pairs.indptr[row[name]] : pairs.indptr[row[name] + 1]] for name in row}
    for name in unknown:
        if of_known := [context for context in contexts_of[name] if context in set(known)]:
            for table in tables:
                mean = sum(table[context].double() for context in of_known) / len(of_known)
                torch.testing.assert_close(table[row[name]].double(), mean * float(SHARE), rtol=2**-8, atol=1e-6)
    for table in tables:  # q1 follows p298, whose row is itself a mean; q2 follows q1, q3 follows q2
        assert all(torch.equal(table[row["p298"]], table[row[name]]) for name in ("q1", "q2", "q3"))
    cold = tables[0][[row["lone"], row["lonely"]]].float()
    assert 0 < cold.abs().max() <= 0.5 / c.dimensions and not tables[1][row["lone"]].any()
    with_known = len(unknown) - 5
    assert f"{len(known)} papers are known, {with_known} new with known references, 5 without (2 start cold)" in capsys.readouterr().out


def test_the_pairs_with_a_new_paper_are_trained(newer, old):
    c, pairs = newer()
    names, known = list(rows_by_id(c)), set(rows_by_id(old[0]))
    indptr, contexts = pairs_with_new(c, pairs)
    found = [(t, int(x)) for t in range(pairs.papers) for x in contexts[indptr[t] : indptr[t + 1]]]
    every = [(t, int(x)) for t in range(pairs.papers) for x in pairs.contexts[pairs.indptr[t] : pairs.indptr[t + 1]]]
    assert found == [(t, x) for t, x in every if not {names[t], names[x]} <= known] and 0 < len(found) < len(every)
    result = train(c, pairs)
    assert result.log[-1]["pairs"] == 3 * len(found) and result.log[-1]["loss"] < result.log[0]["loss"]
    assert open_answer(c).facts["config"]["extends"] == "old", "no folder is told in what is shared"


def test_doubled_and_missing_ids(newer, old):
    c, _ = newer()
    for run in (old[0], c):
        path = run.folder("corpus") / "papers.parquet"
        papers = pq.read_table(path)
        ids = papers["paper_id"].to_pylist()
        if run is c:
            ids[3], ids[10] = None, ids[9]
        else:
            first = ids[0]
            ids[5], ids[7] = first, None
        pq.write_table(papers.set_column(papers.schema.get_field_index("paper_id"), "paper_id", pa.array(ids)), path)
    old_ids, new_ids = (pq.read_table(run.folder("corpus") / "papers.parquet")["paper_id"].to_pylist() for run in (old[0], c))
    expected = [old_ids.index(name) if name is not None and name in old_ids else -1 for name in new_ids]
    assert known_rows(c).tolist() == expected and expected[3] == -1 and expected[9] == expected[10] and 0 in expected


def test_what_the_old_run_may_have_trained_on_is_not_held_out(newer, old, tmp_path):
    c, pairs = newer(heldout=0.3)
    row_of = known_rows(c)
    assert len(pairs.heldout) > 20 and (row_of[pairs.heldout[:, 0]] < 0).all(), "references of new papers alone"
    careless, theirs = prepared(dataclasses.replace(c, extends="", out=str(tmp_path / "careless")))
    assert (row_of[theirs.heldout] >= 0).all(axis=1).any()
    with pytest.raises(
        ArtefactError, match=r"held-out citations and may have trained on them: run notebook 02_build_pairs with the same EXTENDS"
    ):
        train(dataclasses.replace(careless, extends=old[0].out), theirs)


def test_refusals(newer, old, config, dump, tmp_path):
    c, pairs = newer()
    with pytest.raises(ArtefactError, match=r"nowhere is no finished run: name its OUT"):
        train(dataclasses.replace(c, extends=str(tmp_path / "nowhere")), pairs)
    for change, sentence in (
        ({"dimensions": 12}, r"old has dimensions 8, not 12"),
        ({"row_type": "float32"}, r"old has row_type bfloat16, not float32"),
        ({"optimizer": "sgd"}, r"old has optimizer rowwise_adagrad, not sgd"),
    ):
        with pytest.raises(ArtefactError, match=sentence):
            train(dataclasses.replace(c, **change), pairs)
    others, their_pairs = prepared(config(dumps=[dump("others.csv", "citing,cited", "a,b", "b,c")], out=str(tmp_path / "o"), heldout=0))
    with pytest.raises(ArtefactError, match=r"old has none of this corpus' papers"):
        train(dataclasses.replace(others, extends=old[0].out), their_pairs)
    same = dataclasses.replace(old[0], out=str(tmp_path / "same"), extends=old[0].out)
    with pytest.raises(ArtefactError, match=r"old has all of this corpus' papers"):
        train(*prepared(same))
    assert not list(c.folder("checkpoints").glob("*")) and not list(same.folder("checkpoints").glob("*"))
    shard = next(trained_checkpoint(old[0], old[1].fingerprint).path.glob("target-*.npy"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match="no whole checkpoint"):
        train(c, pairs)


def test_the_folder_is_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Config.of_preset("cs", extends="runs/old").extends == str(tmp_path / "runs" / "old")
    assert Config.of_preset("cs").extends == Config.of_preset("cs", extends="").extends == ""


def test_a_killed_extended_run_goes_on_without_extending_again(newer, monkeypatch, tmp_path):
    c, pairs = newer()
    unbroken = train(c, pairs)
    d = dataclasses.replace(c, out=str(tmp_path / "second"))
    Path(d.out).mkdir()
    for name in ("corpus", "pairs"):
        d.folder(name).symlink_to(c.folder(name))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, repr(dataclasses.asdict(d))], cwd=ROOT, env=os.environ, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    source = loop.pair_source(d, *pairs_with_new(d, pairs), pairs.fingerprint)
    found = newest_checkpoint(d, pairs.fingerprint | source.files)
    assert 0 < found.log[-1]["pairs"] < unbroken.log[-1]["pairs"]
    monkeypatch.setattr(loop, "extended_tables", lambda *_: pytest.fail("extended again"))
    resumed = train(d, pairs)
    for one, other in zip((resumed.target, resumed.context), (unbroken.target, unbroken.context), strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(values, unbroken.state[name]) for name, values in resumed.state.items()) and len(resumed.state) == 2
    assert [row["pairs"] for row in resumed.log] == [row["pairs"] for row in unbroken.log]
    assert np.isfinite(resumed.log[-1]["loss"])
