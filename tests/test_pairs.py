"""Corpus to pairs: nothing held out leaks, every pair comes once an epoch, noise is drawn as promised."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.artefacts import write_json
from helpers.corpus.build import build_corpus, open_corpus
from helpers.errors import ArtefactError, ConfigError
from helpers.pairs import noise
from helpers.pairs.blocks import PairBlocks
from helpers.pairs.build import Pairs, build_pairs, choose_heldout, set_apart
from tests.csr import csr

edge_lists = st.integers(2, 15).flatmap(
    lambda N: st.tuples(
        st.just(N),
        st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, N - 1)).filter(lambda edge: edge[0] != edge[1]), min_size=1, unique=True),
    )
)


def columns(edges) -> tuple[np.ndarray, np.ndarray]:
    citing, cited = np.array(edges, np.int32).T
    return citing, cited


@given(edge_lists, st.floats(0, 0.9), st.integers(0, 5))
def test_a_heldout_citation_leaves_in_both_directions(case, fraction, seed):
    N, edges = case
    indptr, cited = csr(*columns(edges), N)
    hidden = choose_heldout(indptr, fraction, np.random.default_rng(seed))
    assert len(set(hidden.tolist())) == len(hidden) == round(fraction * len(edges))
    heldout, apart, reversed_citations = set_apart(indptr, cited, hidden)
    of_row = list(zip(np.repeat(np.arange(N), np.diff(indptr)).tolist(), cited.tolist(), strict=True))
    gone = {tuple(edge) for edge in heldout.tolist()}
    assert gone == {of_row[place] for place in hidden} and apart.sum() == len(hidden) + reversed_citations
    kept = {edge for edge, out in zip(of_row, apart, strict=True) if not out}
    assert not any(edge in gone or edge[::-1] in gone for edge in kept)
    assert all(edge in kept or edge in gone or edge[::-1] in gone for edge in edges)  # and nothing else is lost


def test_by_date_only_later_papers_lose_references():
    indptr, years = np.arange(0, 101, 10), np.arange(2000, 2010)
    hidden = choose_heldout(indptr, 0.2, np.random.default_rng(0), eligible=years > 2004)
    assert len(hidden) == 10 and 50 <= hidden.min() and hidden.max() < 100


@pytest.mark.parametrize("fraction", [0.02, 0.2, 0.7])
def test_every_citation_is_hidden_equally_often(fraction):
    indptr = np.concatenate([[0, 0], np.cumsum([3, 0, 5, 192])])
    times = np.zeros(200)
    for seed in range(2000):
        times[choose_heldout(indptr, fraction, np.random.default_rng(seed))] += 1
    expected = 2000 * fraction
    assert (np.abs(times - expected) < 5 * np.sqrt(expected * (1 - fraction))).all()


@given(edge_lists, st.integers(1, 20), st.integers(0, 3), st.integers(0, 3))
def test_every_pair_is_in_one_block_of_an_epoch(case, block_pairs, seed, epoch):
    N, edges = case
    citing, cited = columns(edges)
    indptr, contexts = csr(np.concatenate([citing, cited]), np.concatenate([cited, citing]), N)
    blocks = PairBlocks(indptr, contexts, seed, block_pairs)
    assert blocks.blocks == max(1, round(2 * len(edges) / block_pairs))
    seen = [
        pair
        for block in range(blocks.blocks)
        for pair in zip(*(ids.tolist() for ids in blocks.block(epoch, block)), strict=True)
    ]  # fmt: skip
    assert sorted(seen) == sorted([*edges, *(edge[::-1] for edge in edges)])
    targets = [target for target, _ in seen]
    assert len([1 for before, after in zip([None, *targets], targets, strict=False) if before != after]) == len(set(targets))  # grouped


def test_blocks_depend_on_seed_epoch_and_block_alone():
    generator = np.random.default_rng(0)
    citing, cited = generator.integers(0, 500, 3000), generator.integers(0, 500, 3000)
    indptr, contexts = csr(citing, cited, 500)
    forward, backward = PairBlocks(indptr, contexts, 1, 500), PairBlocks(indptr, contexts, 1, 500)
    there = [forward.block(epoch, block) for epoch in range(2) for block in range(6)]
    back = [backward.block(epoch, block) for epoch in (1, 0) for block in range(5, -1, -1)][::-1]
    assert all(np.array_equal(a, b) for pair in zip(there, back, strict=True) for a, b in zip(*pair, strict=True))
    assert not np.array_equal(there[0][0], there[6][0]), "another epoch, another order"
    assert not np.array_equal(there[0][0], PairBlocks(indptr, contexts, 2, 500).block(0, 0)[0]), "another seed, another order"
    draws = {tuple(forward.generator(epoch, block).integers(0, 2**60, 4)) for epoch in range(5) for block in range(5)}
    assert len(draws) == 25


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40).filter(any), st.sampled_from([0, 0.5, 0.75, 1]))
def test_the_alias_table_holds_the_distribution_exactly(degree, power):
    degree = np.array(degree)
    table = noise.alias_table(degree, power)
    probability = np.zeros(len(degree))
    np.add.at(probability, np.arange(len(degree)), table["threshold"] / len(degree))
    np.add.at(probability, table["alias"], (1 - table["threshold"]) / len(degree))
    weights = np.where(degree > 0, degree.astype(float) ** power, 0)
    assert np.allclose(probability, weights / weights.sum(), atol=1e-6)
    assert not probability[degree == 0].any(), "a paper without training pairs is never drawn"


def test_draws_follow_the_table():
    degree = np.array([0, 1, 2, 4, 8, 16])
    drawn = noise.draw(noise.alias_table(degree, 1.0), (1000, 310), np.random.default_rng(0))
    assert drawn.shape == (1000, 310) and drawn.dtype == np.int64
    counts = np.bincount(drawn.ravel(), minlength=6)
    expected = degree * 10_000
    assert (np.abs(counts - expected) <= 6 * np.sqrt(expected)).all(), counts


def test_an_alias_table_of_no_citations_is_refused():
    with pytest.raises(ValueError, match="no paper has a citation"):
        noise.alias_table(np.zeros(3, int), 1)


@pytest.fixture
def corpus(config, dump, community_edges):
    """A Config whose corpus is built: 300 papers, some of which also cite each other in a circle."""
    edges = [*community_edges, *((cited, citing) for citing, cited in community_edges[::7])]
    c = config(dumps=[dump("edges.csv", "citing,cited", *(",".join(edge) for edge in edges))], heldout=0.1)
    build_corpus(c)
    return c


def test_the_contract_of_pairs(corpus):
    manifest = build_pairs(corpus)
    pairs = Pairs(corpus)
    _, indptr, cited, _ = open_corpus(corpus)
    edges = set(zip(np.repeat(np.arange(300), np.diff(indptr)).tolist(), cited.tolist(), strict=True))
    heldout = {tuple(edge) for edge in pairs.heldout.tolist()}
    assert pairs.heldout.dtype == np.int32 and pairs.contexts.dtype == np.int32 and pairs.indptr.dtype == np.int64
    assert len(heldout) == manifest["heldout"] == round(0.1 * len(edges)) and heldout <= edges
    gone = heldout | {edge[::-1] for edge in heldout}
    trained = sorted(pair for edge in edges if edge not in gone for pair in (edge, edge[::-1]))
    assert sorted(zip(np.repeat(np.arange(300), np.diff(pairs.indptr)).tolist(), pairs.contexts.tolist(), strict=True)) == trained
    assert manifest["reversed_citations_left_out"] == len(edges & gone) - len(heldout) > 0
    assert manifest["config"] == {"heldout": 0.1, "heldout_after": None, "noise_power": 0.5, "noise_slots": 0, "seed": 0, "extends": ""}


def test_the_same_seed_gives_the_same_pairs(corpus):
    first = build_pairs(corpus)["files"]
    assert build_pairs(corpus)["files"] == first


def test_nothing_held_out(config, dump):
    c = config(dumps=[dump("edges.csv", "citing,cited", "a,b", "b,c")], heldout=0)
    build_corpus(c)
    assert build_pairs(c)["pairs"] == 4 and Pairs(c).heldout.shape == (0, 2)


def test_by_date_needs_later_papers(config, dump):
    dumps = [dump("papers.csv", "id,title,year", "a,A,1990", "b,B,1991"), dump("edges.csv", "citing,cited", "b,a")]
    build_corpus(config(dumps=dumps))
    with pytest.raises(ConfigError, match="heldout_after = 2000 hides nothing"):
        build_pairs(config(dumps=dumps, heldout_after=2000))


def test_a_split_that_leaves_nothing_is_refused(config, dump):
    c = config(dumps=[dump("edges.csv", "citing,cited", "a,b")], heldout=0.9)
    build_corpus(c)
    with pytest.raises(ConfigError, match=r"heldout = 0.9 leaves no citation to train on, of 1"):
        build_pairs(c)
    assert not c.folder("pairs").exists()


def test_pairs_of_another_corpus_are_not_used(corpus):
    build_pairs(corpus)
    path = corpus.folder("corpus") / "report.json"
    report = json.loads(path.read_text())
    write_json(path, {**report, "sha256": {"papers.parquet": "0", "citations.npy": "0"}})
    with pytest.raises(ArtefactError, match=r"pairs was made from another corpus .*; run notebook 02_build_pairs again"):
        Pairs(corpus)


def test_damaged_pairs_are_not_used(corpus):
    build_pairs(corpus)
    path = corpus.folder("pairs") / "contexts.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ArtefactError, match=r"contexts.npy is missing or not as its manifest says; run notebook 02_build_pairs again"):
        Pairs(corpus)
