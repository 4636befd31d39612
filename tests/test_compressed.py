"""Compressed tables against explicit ones made with the same hash; the hash itself; pairs factorised; bad input."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.errors import ConfigError, UserError
from helpers.models.compressed import CompressedEmbedding, Factors, fit, pair_entries
from helpers.models.sgns import PlainSGNS
from helpers.pairs.noise import alias_table
from tests.csr import csr

N, D, M = 50, 7, 60


def hash_in_words(i: int, d: int, salt: int, M: int, D: int) -> tuple[int, int]:
    """(place, sign) as the module's first lines document them, in Python's whole numbers."""
    x = ((i * D + d + salt * 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 32)) * 0x94D049BB133111EB) % 2**64
    return ((x >> 32) * M) >> 32, 1 - 2 * (x >> 31 & 1)


def hashed(table: CompressedEmbedding, ids) -> tuple[torch.Tensor, torch.Tensor]:
    """Places and signs, int64 (n, D) each, of these rows by the documented hash."""
    D = table.embedding_dim
    found = torch.tensor([[hash_in_words(int(i), d, table.salt, len(table.pool), D) for d in range(D)] for i in ids])
    return found[..., 0], found[..., 1]


class Explicit:
    """The judge: an explicit N x D table, float64, that autograd knows as made of a pool of its own by the documented hash."""

    def __init__(self, table: CompressedEmbedding):
        self.places, self.signs = hashed(table, range(table.num_embeddings))
        self.pool = table.pool.detach().double().requires_grad_()

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        return (self.pool[self.places] * self.signs)[ids]


@pytest.mark.parametrize("salt", [0, 3, 2**40 + 1])
@pytest.mark.parametrize("pool", [1, 2, M, N * D])
def test_rows_and_gradient_equal_those_of_an_explicit_table(salt, pool):
    table = CompressedEmbedding(N, D, max(2, pool), salt=salt)
    table.pool = nn.Parameter(table.pool.data[:pool])  # a single float is refused, but hashed all the same
    judge = Explicit(table)
    for found, expected in zip(table.places(torch.arange(N)), (judge.places, judge.signs), strict=True):
        assert torch.equal(found.long(), expected)
    ids = torch.tensor([[0, 3, 3], [N - 1, 0, 7]])  # doubles, first and last row
    upstream = torch.randn(2, 3, D)
    rows = table(ids)
    rows.backward(upstream)
    expected = judge(ids)
    expected.backward(upstream.double())
    assert rows.shape == (2, 3, D) and torch.equal(rows.double(), expected)
    torch.testing.assert_close(table.pool.grad.double(), judge.pool.grad, rtol=1e-5, atol=1e-5)
    assert table.pool.grad.shape == (pool,)


@pytest.mark.parametrize("pool", [4096, 3_000_000])
def test_large_batches_are_summed_in_the_same_bits_every_time(pool):
    table, ids, upstream = CompressedEmbedding(100_000, 64, pool, salt=5), torch.randint(100_000, (5001,)), torch.randn(5001, 64)
    gradients = [torch.autograd.grad(table(ids), table.pool, upstream)[0] for _ in range(2)]
    assert torch.equal(*gradients)
    places, signs = table.places(ids)
    expected = np.bincount(places.flatten(), (upstream.double() * signs).flatten(), minlength=pool)
    np.testing.assert_allclose(gradients[0].numpy(), expected, rtol=1e-4, atol=1e-4)


def test_large_rows_have_no_narrow_offset():
    table = CompressedEmbedding(2**33, 512, 1000)  # i D is beyond 2**32, twice over
    ids = torch.tensor([2**33 - 1, 5, 2**32 + 5])
    places, signs = hashed(table, ids)
    assert torch.equal(table.places(ids)[0], places) and torch.equal(table(ids), table.pool[places] * signs)


@pytest.mark.parametrize("pool", [97, 1024])
def test_the_hash_is_even_and_no_two_rows_or_salts_are_alike(pool):
    ids = torch.arange(20_000)
    places, signs = zip(*(CompressedEmbedding(20_000, 16, pool, salt=salt).places(ids) for salt in (0, 1)), strict=True)
    counts = torch.bincount(places[0].flatten(), minlength=pool).double()
    chi_square = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
    assert abs(chi_square - pool) < 6 * (2 * pool) ** 0.5
    assert abs(float((places[0] == places[1]).double().mean()) - 1 / pool) < 0.5 / pool, "salts hash apart"
    of_place = torch.zeros(pool).index_add_(0, places[0].flatten(), signs[0].flatten())
    assert abs(float((of_place.double() ** 2 / counts).mean()) - 1) < 6 * (2 / pool) ** 0.5, "as many minus as plus, at every place"
    for other in (1, 7, 4096):  # rows that lie apart like this meet no more often than by chance
        met = (places[0][other:] == places[0][:-other]).double()
        assert abs(float(met.mean()) - 1 / pool) < 0.5 / pool and float(met.sum(dim=1).max()) < 8
        agree = (signs[0][other:] == signs[0][:-other]).double()
        for of in (agree, agree[met > 0]):
            assert abs(float(of.mean()) - 0.5) < 3 / of.numel() ** 0.5, "signs are as independent as places"


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adagrad, torch.optim.Adam])
def test_the_plain_model_trains_compressed_tables_as_it_trains_explicit_ones(optimizer):
    """PlainSGNS with compressed tables against the same loss on float64 pools, several steps, doubles included."""
    generator = torch.Generator().manual_seed(1)
    model = PlainSGNS(*(CompressedEmbedding(N, D, M, salt=salt) for salt in (0, 1)))
    judge = PlainSGNS(torch.zeros(1, 1), torch.zeros(1, 1))
    del judge.target, judge.context
    judge.target, judge.context = Explicit(model.target), Explicit(model.context)
    stepped = optimizer(model.parameters(), lr=0.05), optimizer([judge.target.pool, judge.context.pool], lr=0.05)
    for _ in range(5):
        targets, contexts = torch.randint(N, (2, 12), generator=generator)
        negatives = torch.randint(N, (12, 4), generator=generator)
        losses = model(targets, contexts, negatives), judge(targets, contexts, negatives)
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-4)
        for loss, optimiser in zip(losses, stepped, strict=True):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    for table, expected in ((model.target, judge.target), (model.context, judge.context)):
        torch.testing.assert_close(table.pool.double(), expected.pool, rtol=1e-4, atol=1e-4)


def communities(papers=120, groups=6, seed=0):
    """CSR by target of citations within groups: (indptr, contexts) both ways."""
    generator = np.random.default_rng(seed)
    citing = np.repeat(np.arange(papers), 5)
    cited = (citing + groups * generator.integers(1, papers // groups, len(citing))) % papers
    return csr(np.concatenate([citing, cited]), np.concatenate([cited, citing]), papers)


def test_the_entries_are_those_of_the_dense_matrix():
    indptr, contexts = communities()
    counts = np.zeros((120, 120))
    np.add.at(counts, (np.repeat(np.arange(120), np.diff(indptr)), contexts), 1)
    assert counts.max() > 1, "doubles are summed"
    totals = counts.sum(axis=0)
    with np.errstate(divide="ignore"):
        dense = {False: np.log(counts * counts.sum() / (np.outer(totals, totals) * 2)), True: np.log1p(counts)}
    for logs, values in dense.items():
        targets, others, kept, found_weights = pair_entries(indptr, contexts, shift=2, logs=logs, most=2)
        expected = np.maximum(values, 0)
        found = np.zeros((120, 120))
        found[targets, others] = kept
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert found_weights.mean() == pytest.approx(1)
        weights = np.minimum(counts[targets, others] / 2, 1) ** 0.75
        np.testing.assert_allclose(found_weights, weights / weights.mean(), rtol=1e-6)


def tables_of(kind: str, papers: int, dimensions: int = 16) -> tuple[nn.Module, nn.Module]:
    """Two tables with small random rows, full or compressed, or one given twice."""
    torch.manual_seed(0)
    if kind == "full":
        return tuple(nn.Embedding.from_pretrained(torch.randn(papers, dimensions) / 4, freeze=False) for _ in range(2))
    tables = [CompressedEmbedding(papers, dimensions, papers * dimensions // 2, salt=salt, scale=0.25) for salt in (0, 1)]
    return (tables[0], tables[0]) if kind == "shared" else tuple(tables)


@pytest.mark.parametrize("kind", ["full", "compressed", "shared"])
@pytest.mark.parametrize("loss", ["square", "sgns"])
def test_the_loss_falls_and_the_groups_are_found(kind, loss):
    indptr, contexts = communities()
    model = Factors(*tables_of(kind, 120), dropout=0.1, biases=0.5)
    assert len(list(model.parameters())) == (2 if kind == "shared" else 4)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    losses = fit(model, pair_entries(indptr, contexts), alias_table(np.diff(indptr), 0.5), optimizer, loss, 30, batch=64, others=16)
    assert len(losses) == 30 and losses[-1] < 0.75 * losses[0]
    with torch.no_grad():
        scores, _ = model.eval()(torch.arange(120).repeat_interleave(120), torch.arange(120).repeat(120), torch.arange(2))
    same = torch.arange(120)[:, None] % 6 == torch.arange(120) % 6
    apart = ~torch.eye(120, dtype=torch.bool)
    scores = scores.view(120, 120)
    assert scores[same & apart].mean() > scores[~same].mean() + 0.3


def test_scores_are_products_and_biases():
    target, context = tables_of("full", 10)
    model = Factors(target, context, dropout=0.5, biases=0.5).eval()
    for bias in model.biases:
        nn.init.normal_(bias.weight)
    targets, contexts, others = torch.tensor([1, 1, 4]), torch.tensor([2, 0, 4]), torch.tensor([9, 3])
    scores, of_others = model(targets, contexts, others)
    full = target.weight @ context.weight.T + model.biases[0].weight + model.biases[1].weight.T
    torch.testing.assert_close(scores, full[targets, contexts])
    torch.testing.assert_close(of_others, full[targets][:, others])
    assert not torch.equal(model.train()(targets, contexts, others)[0], scores), "dropout in training alone"


@pytest.mark.parametrize(
    ("pool", "told"),
    [
        (351, "A pool of 351 floats cannot hold 50 x 7 values: take from 2 to 350 floats."),
        (1, "A pool of 1 floats cannot hold 50 x 7 values: take from 2 to 350 floats."),
        (0, "A pool of 0 floats cannot hold 50 x 7 values: take from 2 to 350 floats."),
        (-5, "A pool of -5 floats cannot hold 50 x 7 values: take from 2 to 350 floats."),
    ],
)
def test_a_pool_that_cannot_work_is_a_sentence(pool, told):
    with pytest.raises(ConfigError) as error:
        CompressedEmbedding(N, D, pool)
    assert str(error.value) == told


@pytest.mark.parametrize("ids", [[0, -1], [3, 50], [2**40]])
def test_an_id_out_of_range_is_a_sentence(ids):
    with pytest.raises(UserError, match=r"^Row (-1|50|1,099,511,627,776) does not exist: this table has rows 0 to 49\.$"):
        CompressedEmbedding(N, D, M)(torch.tensor(ids))


def test_no_ids_are_no_rows():
    table = CompressedEmbedding(N, D, M)
    rows = table(torch.empty(0, 3, dtype=torch.int64))
    rows.sum().backward()
    assert rows.shape == (0, 3, D) and not table.pool.grad.any()


def test_an_empty_matrix_is_a_sentence():
    with pytest.raises(ConfigError, match=r"^The PMI matrix of 0 pairs, shifted by log 1, is empty: take more pairs or a smaller shift\.$"):
        pair_entries(np.zeros(5, np.int64), np.empty(0, np.int32))
    with pytest.raises(ConfigError, match=r"shifted by log 1e\+06, is empty"):
        pair_entries(*communities(), shift=1e6)


def test_a_compressed_table_is_saved_and_moved_as_any_module(tmp_path):
    table = CompressedEmbedding(N, D, M, salt=9)
    torch.save(table.state_dict(), tmp_path / "pool.pt")
    other = CompressedEmbedding(N, D, M, salt=9)
    other.load_state_dict(torch.load(tmp_path / "pool.pt"))
    assert torch.equal(table(torch.arange(N)), other(torch.arange(N)))
    assert sum(parameter.numel() for parameter in table.parameters()) == M


@pytest.mark.gpu
def test_a_gpu_gives_the_same_rows_and_gradient():
    table = CompressedEmbedding(N, D, M)
    ids, upstream = torch.randint(N, (40,)), torch.randn(40, D)
    table(ids).backward(upstream)
    there = CompressedEmbedding(N, D, M).cuda()
    there.load_state_dict(table.state_dict())
    there(ids.cuda()).backward(upstream.cuda())
    assert torch.equal(there(ids.cuda()).cpu(), table(ids))
    torch.testing.assert_close(there.pool.grad.cpu(), table.pool.grad, rtol=1e-5, atol=1e-5)
