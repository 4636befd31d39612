"""Tables in pages: LargeEmbedding's documented examples, and equality with `nn.Embedding`, wherever the pages are and however mirrored."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.errors import ConfigError
from helpers.models.sgns import PlainSGNS
from helpers.rows.pages import PagedEmbedding

N, D, PAGE = 103, 6, 20  # the last page has three rows
SPREAD = [(0, 1), (0, 3), 4, 5, 6, "cpu"]
PLACES = {"even": {"num_devices": 4}, "one page": {"page_size": 1000}, "spread and mirrored": {"device_list": SPREAD}}
PLACES["all mirrored on four"] = {"device_list": [(0, 1, 2, 3)] * 6}
OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=0.01),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.001),
}


def paged(seed: int = 0, **given) -> tuple[PagedEmbedding, nn.Embedding]:
    """A paged table on the CPU and a whole one with the same rows."""
    torch.manual_seed(seed)
    embedding = PagedEmbedding(N, D, **{"page_size": PAGE, "use_cuda": False, **given})
    return embedding, nn.Embedding.from_pretrained(whole(embedding), freeze=False)


def whole(embedding: PagedEmbedding) -> torch.Tensor:
    """All rows in the order of the words, float32 (N, D)."""
    return torch.cat([page.weight for page in embedding.embeddings]).detach().clone()


def words(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randint(N, shape, generator=generator).clamp_(min=12)  # word 12 many times


def test_what_large_embedding_documents():
    devices = [(0, 1), (0, 3), 4, 5, 6]
    embedding = PagedEmbedding(n_words=50_000, dim_word=4, page_size=10_000, use_cuda=False, device_list=devices)
    assert embedding.page_devices == devices
    assert [tuple(page.weight.shape) for page in embedding.embeddings] == [(10_000, 4)] * 5
    assert torch.equal(embedding(torch.tensor([10_000]))[0], embedding.embeddings[1].weight[0])
    assert torch.equal(embedding(torch.tensor([30_100]))[0], embedding.embeddings[3].weight[100])
    assert [len(page.copies) for page in embedding.embeddings] == [2, 2, 1, 1, 1]


def test_one_page_mirrored_on_four():
    embedding = PagedEmbedding(n_words=10_000, dim_word=4, page_size=10_000, use_cuda=False, device_list=[(0, 1, 2, 3)])
    (page,) = embedding.embeddings
    assert len({held.data_ptr() for held in page.copies}) == 4 and all(torch.equal(held, page.weight) for held in page.copies)
    trained = torch.optim.SGD(embedding.parameters(), lr=0.5)
    before = page.weight[7].detach().clone()
    (embedding(torch.tensor([7, 7, 9]), device=2).sum() + embedding(torch.tensor([7]), device=1).sum()).backward()
    assert page.weight.grad[7].tolist() == [3.0] * 4, "what is read near two mirrors is summed"
    trained.step()
    for device in range(4):
        assert torch.equal(embedding(torch.tensor([7]), device=device)[0], before - 1.5), "and all of them change"


def test_even_pages_go_round_the_devices():
    assert PagedEmbedding(N, D, PAGE, num_devices=4, use_cuda=False).page_devices == [0, 1, 2, 3, 0, 1]
    assert PagedEmbedding(N, D, PAGE, use_cuda=False).page_devices == [0] * 6


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 4), (2, 3, 4)])
def test_reads_any_shape_as_one_table_does(place, shape):
    embedding, plain = paged(**PLACES[place])
    asked = words(torch.Generator().manual_seed(1), *shape)
    found = embedding(asked)
    assert found.shape == (*shape, D) and torch.equal(found, plain(asked))
    found.sum().backward()
    plain(asked).sum().backward()
    assert torch.equal(torch.cat([page.weight.grad for page in embedding.embeddings]), plain.weight.grad)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("place", PLACES)
def test_twenty_steps_equal_one_table_s(place, optimizer):
    """Of any optimiser, with duplicates; two readers a step, near two mirrors, whose gradients are summed to all of them."""
    embedding, plain = paged(**PLACES[place])
    trained = [OPTIMIZERS[optimizer](model.parameters()) for model in (embedding, plain)]
    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        asked, weights = words(generator, 2, 30), torch.randn(2, 30, D, generator=generator)
        rows = torch.stack([embedding(asked[0], device=1), embedding(asked[1], device=3)]), plain(asked)
        assert (rows[0] - rows[1]).abs().max() < 1e-6
        for optimiser, found in zip(trained, rows, strict=True):
            optimiser.zero_grad()
            (found * weights).sum().backward()
            optimiser.step()
    assert (whole(embedding) - plain.weight).abs().max() < 1e-6
    assert all(torch.equal(held, page.weight) for page in embedding.embeddings for held in page.copies)


class ByHand:
    """Stochastic gradient descent on `.data`, as some write it."""

    def __init__(self, parameters):
        self.parameters = list(parameters)

    def zero_grad(self):
        for parameter in self.parameters:
            parameter.grad = None

    def step(self):
        for parameter in self.parameters:
            parameter.data -= 0.1 * parameter.grad


@pytest.mark.parametrize("make", [lambda parameters: torch.optim.Adam(parameters, fused=True), ByHand])
def test_mirrors_follow_what_torch_does_not_count(make):
    """Changes of which a tensor's version does not tell; with a reading between the gradient and the step."""
    embedding, _ = paged(device_list=SPREAD)
    trained, asked = make(embedding.parameters()), words(torch.Generator().manual_seed(4), 30)
    for _ in range(3):
        trained.zero_grad()
        (embedding(asked, device=1) ** 2).sum().backward()
        for _ in range(2):
            with torch.no_grad():
                assert torch.equal(embedding(asked, device=3), nn.functional.embedding(asked, whole(embedding)))
            trained.step()


def test_the_nearest_mirror_is_read():
    embedding, _ = paged(device_list=SPREAD)
    with torch.no_grad():
        embedding.embeddings[1].copies[1].zero_()  # what page 1 is on device 3
    word = torch.tensor([PAGE])
    assert embedding(word, device=3).abs().sum() == 0 and embedding(word, device=0).abs().sum() > 0
    assert torch.equal(embedding(word, device=6), embedding(word)), "no mirror is there: the first is read"


def test_a_state_dict_goes_to_another_placement():
    embedding, _ = paged(device_list=SPREAD)
    kept = embedding.state_dict()
    assert sorted(kept) == [f"embeddings.{page}.weight" for page in range(6)]
    other, _ = paged(seed=5, device_list=[0, (1, 2), 1, (0, 2), 0, 0])
    model = nn.Sequential(other)
    model.load_state_dict({f"0.{name}": values for name, values in kept.items()})
    assert torch.equal(whole(other), whole(embedding))
    assert all(torch.equal(held, page.weight) for page in other.embeddings for held in page.copies)
    del kept["embeddings.1.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*embeddings\.1\.weight"):
        other.load_state_dict(kept)


def test_the_model_trains_on_pages():
    """Skip-gram with negative sampling over two paged tables is that over two whole ones."""
    tables = [paged(seed, device_list=SPREAD) for seed in range(2)]
    models = [PlainSGNS(*(pair[i] for pair in tables)) for i in range(2)]
    trained = [torch.optim.Adagrad(model.parameters(), lr=0.05) for model in models]
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        asked = [words(generator, 40), words(generator, 40), words(generator, 40, 5)]
        for optimiser, model in zip(trained, models, strict=True):
            optimiser.zero_grad()
            model(*asked).backward()
            optimiser.step()
    assert max((whole(embedding) - plain.weight).abs().max() for embedding, plain in tables) < 1e-6


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"device_list": [0, 1]}, "device_list has 2 entries, but 103 words in pages of 20 are 6 pages"),
        ({"device_list": [0] * 7}, "device_list has 7 entries"),
        ({"device_list": []}, "device_list has 0 entries"),
        (
            {"num_devices": 2, "device_list": [0, 1, 0, (1, 2), 0, 1]},
            "Page 3 is to be on device 2, which does not exist: take 0 to 1, or 'cpu'",
        ),
        ({"device_list": [0, 1, -1, 0, 0, 0]}, "Page 2 is to be on device -1"),
        ({"device_list": [0, 1, (), 0, 0, 0]}, "Page 2 is to be on device None"),
        ({"device_list": ["cuda:0", 1, 0, 0, 0, 0]}, "Page 0 is to be on device 'cuda:0'"),
    ],
)
def test_bad_input_gets_a_sentence(given, told):
    with pytest.raises(ConfigError) as refusal:
        paged(**given)
    assert told in str(refusal.value) and str(refusal.value).endswith(".")


@pytest.mark.parametrize("word", [-1, N])
def test_words_beyond_the_table_are_refused(word):
    embedding, _ = paged(num_devices=2)
    with pytest.raises(IndexError, match="but there are 103"):
        embedding(torch.tensor([0, word]))


@pytest.mark.gpu
def test_pages_over_cpu_and_gpu():
    there = torch.cuda.device_count()
    devices = ["cpu", 0, (0, "cpu"), there - 1, ("cpu", 0), 0]
    embedding = PagedEmbedding(N, D, PAGE, device_list=devices)
    plain = nn.Embedding.from_pretrained(torch.cat([page.weight.cpu() for page in embedding.embeddings]).detach(), freeze=False)
    assert [page.weight.device.type for page in embedding.embeddings] == ["cpu", "cuda", "cuda", "cuda", "cpu", "cuda"]
    trained = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (embedding, plain)]
    generator = torch.Generator().manual_seed(2)
    for step in range(20):
        asked, weights = words(generator, 30), torch.randn(30, D, generator=generator)
        here = asked.cuda() if step % 2 else asked
        rows = embedding(here).cpu(), plain(asked)
        for optimiser, found in zip(trained, rows, strict=True):
            optimiser.zero_grad()
            (found * weights).sum().backward()
            optimiser.step()
    assert (torch.cat([page.weight.cpu() for page in embedding.embeddings]) - plain.weight).abs().max() < 1e-6
    assert all(torch.allclose(held.cpu(), page.weight.cpu(), atol=1e-6) for page in embedding.embeddings for held in page.copies)
    with pytest.raises(ConfigError, match="which does not exist"):
        PagedEmbedding(N, D, PAGE, device_list=[there, *devices[1:]])
    assert np.isfinite(rows[0].detach().numpy()).all()
