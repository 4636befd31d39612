"""The title encoder: what a row depends on, its loss beside the plain model's, planted topics, resuming, bad titles."""

import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.config import ROOT, Config
from helpers.corpus.build import build_corpus, open_corpus
from helpers.errors import ArtefactError, UserError
from helpers.models.sgns import PlainSGNS
from helpers.models.title_encoder import MOST_LETTERS, TitleEncoder, batch_loss, embed, fit
from helpers.neighbors.search import normalised
from helpers.pairs.blocks import PairBlocks
from helpers.pairs.build import Pairs, build_pairs
from helpers.pairs.noise import alias_table
from helpers.training.engines import new_tables
from tests.csr import csr

TOPICS, PAPERS = 5, 60


@pytest.fixture(autouse=True)
def one_thread():
    """Of such small steps two threads make slow ones, where something else runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


KILLED = """
import os, signal
import torch
from tests.test_title_encoder import fit, planted_titles, small

torch.set_num_threads(1)
epochs = []

def kill_in_the_second(encoder):
    epochs.append(encoder)
    return os.kill(os.getpid(), signal.SIGKILL) if len(epochs) == 2 else {{}}

titles, _, source, noise = planted_titles()
fit(small(), titles, source, noise, epochs=3, batch_pairs=200, path={path!r}, evaluate=kill_in_the_second)
"""


def planted_titles():
    """(titles, topics, source, noise): each topic has words of its own, and its papers cite each other alone."""
    generator = np.random.default_rng(0)
    words = [
        [f"{first}{a}{b}" for a, b in zip(generator.choice([*"aeiou"], 8), generator.choice([*"vwxyz"], 8), strict=True)]
        for first in "bcdfg"
    ]
    topics = np.arange(PAPERS) % TOPICS
    titles = [" ".join(generator.choice(words[topic], 4)) for topic in topics]
    citing = generator.integers(0, PAPERS, 600)
    cited = (citing + TOPICS * generator.integers(1, PAPERS // TOPICS, 600)) % PAPERS
    indptr, contexts = csr(np.concatenate([citing, cited]), np.concatenate([cited, citing]), PAPERS)
    return titles, topics, PairBlocks(indptr, contexts, 0, 1 << 9), alias_table(np.diff(indptr), 0.5)


def small(seed: int = 0) -> TitleEncoder:
    torch.manual_seed(seed)
    return TitleEncoder(8, hidden=8, word_rows=64)


def test_a_row_depends_on_its_title_alone():
    titles = [
        "Graphs",
        "On the spelling of supercalifragilisticexpialidocious words, and others",
        "Пути в графах 2",
        "深度学习 for a graph",
    ]
    encoder = small()
    target, context = embed(encoder, titles)
    assert target.shape == context.shape == (4, 8) and target.dtype == np.float32
    backwards = embed(encoder, titles[::-1])
    for i, title in enumerate(titles):
        for alone, of_all, turned in zip(embed(encoder, [title]), (target, context), backwards, strict=True):
            np.testing.assert_allclose(alone[0], of_all[i], atol=1e-6)
            np.testing.assert_allclose(turned[3 - i], of_all[i], atol=1e-6)
    assert np.linalg.norm(embed(encoder, ["words spelling"])[0] - embed(encoder, ["spelling words"])[0]) > 1e-4, "the order of words counts"
    assert np.linalg.norm(embed(encoder, ["god"])[0] - embed(encoder, ["dog"])[0]) > 1e-4, "and that of letters"


def test_the_loss_and_its_gradient_are_the_plain_models():
    titles, _, source, _ = planted_titles()
    encoder = small().eval()
    targets, contexts = (torch.from_numpy(ids[:40]).long() for ids in source.block(0, 0))
    negatives = torch.tensor([3, 7, 7, int(targets[0])])  # a paper twice, and one that is a target
    loss, _ = batch_loss(encoder, titles, targets.numpy(), contexts.numpy(), negatives.numpy(), 1.25)
    loss.backward()
    found = {name: values.grad.clone() for name, values in encoder.named_parameters()}
    encoder.zero_grad()
    tables = encoder(titles)
    plain = PlainSGNS(*(table.detach() for table in tables))
    expected = plain(targets, contexts, negatives.expand(40, -1), 1.25)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.autograd.backward(tables, [plain.target.weight.grad, plain.context.weight.grad])
    for name, values in encoder.named_parameters():
        torch.testing.assert_close(found[name], values.grad, rtol=1e-3, atol=1e-4)


def test_against_known_rows_the_loss_is_the_plain_models_in_both_directions():
    titles, _, source, _ = planted_titles()
    encoder = small().eval()
    targets, contexts = (ids[:40] for ids in source.block(0, 0))
    negatives, generator = np.array([3, 7, 7, targets[0]]), np.random.default_rng(1)
    known = tuple(generator.standard_normal((PAPERS, 8)).astype(np.float16) for _ in range(2))
    made, pairs = [rows.detach() for rows in encoder(titles)], [torch.from_numpy(ids).long() for ids in (targets, contexts)]
    expected = 0
    for own, others in zip(made, known[::-1], strict=True):
        plain = PlainSGNS(own, torch.from_numpy(others).float())
        expected += plain(*pairs, torch.from_numpy(negatives).expand(40, -1), 1.25) / 2
    loss, pull = batch_loss(encoder, titles, targets, contexts, negatives, 1.25, known)
    torch.testing.assert_close(loss, expected)
    arrived = batch_loss(encoder, titles, targets, contexts, negatives, 1.25, tuple(rows.numpy() for rows in made))[1]
    assert abs(arrived.item()) < 1e-2 < 10 < pull.item(), "nothing pulls rows that are the trained ones"


def test_titles_alone_find_their_planted_topic():
    titles, topics, source, noise = planted_titles()
    torch.manual_seed(0)
    encoder = TitleEncoder(8, hidden=16, word_rows=1)
    log = fit(encoder, titles, source, noise, epochs=6, batch_pairs=128)
    assert [row["epoch"] for row in log] == list(range(1, 7)) and log[-1]["loss"] < 0.7 * log[0]["loss"]
    target, context = embed(encoder, titles)
    scores = target @ context.T
    np.fill_diagonal(scores, -np.inf)
    assert (topics[np.argsort(-scores)[:, :5]] == topics[:, None]).mean() > 0.7  # chance: 0.2


def test_titles_of_the_sample_that_were_not_read_land_in_their_topic(tmp_path):
    config = Config.of_preset("sample", out=str(tmp_path), epochs=0)
    build_corpus(config)
    build_pairs(config)
    pairs, papers = Pairs(config), open_corpus(config, ["paper_id", "title"])[0].to_pandas()
    truth = pd.read_csv(ROOT / "data" / "topics.csv.gz", dtype=str).set_index("paper_id")
    topics = papers["paper_id"].map(truth["domain"] + "/" + truth["field"] + "/" + truth["topic"]).to_numpy(object)
    rows = new_tables(config, pairs.indptr, pairs.contexts)[0].float().numpy()
    known = np.flatnonzero([isinstance(topic, str) for topic in topics])
    order = np.random.default_rng(0).permutation(known)
    read, asked = set(order[:3000].tolist()), order[3000:3300]
    titles = [title if paper in read else None for paper, title in enumerate(papers["title"])]
    source = PairBlocks(pairs.indptr, pairs.contexts, 0, config.block_pairs)
    torch.manual_seed(0)
    encoder = TitleEncoder(rows.shape[1], hidden=32)
    fit(encoder, titles, source, pairs.noise, epochs=3, known=(rows, rows))
    made, mean = embed(encoder, papers["title"].iloc[asked].tolist())[0], rows.mean(axis=0)
    scores = normalised(made - mean) @ normalised(rows[order[:3000]] - mean).T
    nearest = order[:3000][np.argsort(-scores)[:, :10]]
    chance = (topics[asked][:, None] == topics[order[:3000]]).mean()
    assert (topics[nearest] == topics[asked][:, None]).mean() > max(0.3, 10 * chance)


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    titles, _, source, noise = planted_titles()
    whole, resumed = small(), small(seed=1)
    log = fit(whole, titles, source, noise, epochs=3, batch_pairs=200)
    killed = KILLED.format(path=str(tmp_path / "encoder.pt"))
    ended = subprocess.run([sys.executable, "-c", killed], cwd=ROOT, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert torch.load(tmp_path / "encoder.pt", weights_only=True)["log"] == log[:1]
    assert fit(resumed, titles, source, noise, epochs=3, batch_pairs=200, path=tmp_path / "encoder.pt") == log
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ArtefactError, match="of another training"):
        fit(resumed, titles, source, noise, epochs=4, batch_pairs=200, path=tmp_path / "encoder.pt")
    (tmp_path / "encoder.pt").write_bytes((tmp_path / "encoder.pt").read_bytes()[:-100])
    with pytest.raises(ArtefactError, match=r"encoder.pt is damaged \(.*\): delete it to train anew\.") as refused:
        fit(resumed, titles, source, noise, epochs=3, batch_pairs=200, path=tmp_path / "encoder.pt")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("title", [None, "", " ?! ", "." * 100_000])
def test_a_title_with_nothing_to_read_is_one_sentence(title):
    titles, _, source, noise = planted_titles()
    with pytest.raises(UserError, match="Title 2 of 2 has no letter and no digit"):
        embed(small(), ["A title", title])
    with pytest.raises(UserError, match="Title 1 of 60 has no letter"):
        fit(small(), [title, *titles[1:]], source, noise, epochs=1)
    rows = np.ones((PAPERS, 8), np.float32)
    with pytest.raises(UserError, match="nothing to train on"):
        fit(small(), [title] * PAPERS, source, noise, epochs=1, known=(rows, rows))


def test_a_title_of_100_000_characters_is_cut_and_told(capsys):
    long = "word " * 20_000
    rows = embed(small(), ["A title", long, long[:MOST_LETTERS]])[0]
    assert "1 titles, the first of them title 2, have more than 500 characters" in capsys.readouterr().out
    np.testing.assert_allclose(rows[1], rows[2], atol=1e-6)
    assert np.isfinite(embed(small(), ["x" * 100_000])[0]).all()
