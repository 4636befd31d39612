"""Tables in spans: training through them equals the plain model, whatever lives where, whoever moves it, one batch ahead or not."""

import dataclasses

import numpy as np
import pytest
import torch

from helpers.config import CHOICES, Config
from helpers.errors import ConfigError, TrainingError
from helpers.memory import Training, checkpoint_bytes, hot_rows
from helpers.models.sgns import PlainSGNS, sgns_loss, shared_gradients
from helpers.pairs.noise import alias_table
from helpers.rows import transfer
from helpers.rows.files import aligned_empty, as_stored, as_tensor, empty_table, round_stochastically
from helpers.rows.tables import FIRST_SUM, STOCK, Table, new_state, update
from helpers.rows.transfer import PinnedRows, kernels_work
from helpers.training import torch_engine
from helpers.training.loop import choose_engine
from helpers.training.torch_engine import TorchEngine, state_bytes
from tests.conftest import random_pairs

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
N, D, K, S, B, C = 60, 8, 3, 10, 64, 24
RATE = 0.05


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(torch_engine, "CHUNK", C)


def engine_of(optimizer="rowwise_adagrad", dtype=torch.float32, device="cpu", hot=0, files=None, ahead=False, **given) -> TorchEngine:
    """An engine on a small random graph, whose batches are full of duplicates; `hot` rows in device memory."""
    indptr, contexts = random_pairs(np.random.default_rng(0), N, 200)
    settings = {"dimensions": D, "negatives": K, "shared_negatives": S, "batch_pairs": B, "seed": 1, "block_pairs": 150}
    row_type = str(dtype).split(".")[-1]
    c = Config.of_preset("cs", dumps=["x"], out="none", optimizer=optimizer, device=device, row_type=row_type, **settings)
    if files:
        c = dataclasses.replace(c, out=str(files), tables_on_disk=True, contexts_on_disk=True)
    generator = torch.Generator().manual_seed(2)
    tables = [as_tensor(empty_table(c, name, N)) for name in ("target", "context")]
    for table in tables:
        table.copy_(torch.randn(N, D, generator=generator) * 0.3)
    row = D * dtype.itemsize + sum(values[:1].nbytes for values in new_state(optimizer, 1, D).values())
    noise = alias_table(np.maximum(np.diff(indptr), 1), 0.75)
    return TorchEngine(c, indptr, contexts, noise, *tables, gpu=hot * row, ahead=ahead, **given)


def train(engine: TorchEngine, epochs: int = 2, rate: float = RATE) -> list[torch.Tensor]:
    """What the engine's tables and their state are after training."""
    for epoch in range(epochs):
        for block in range(engine.blocks.blocks):
            engine.train_block(epoch, block, rate / (1 + epoch))
    engine.flush()
    return [engine.target, engine.context, *engine.state.values()]


class Plainly:
    """The slow, obvious run on the batches that an engine draws: dense gradients by autograd, every touched row by its own optimiser."""

    def __init__(self, engine: TorchEngine):
        self.model, self.engine, self.optimizer = PlainSGNS(engine.target, engine.context), engine, engine.config.optimizer
        self.sums = [torch.full((N,), FIRST_SUM) for _ in range(2)]
        self.rows, self.trained = {}, {}
        self._step, engine._train = engine._train, self.train

    def train(self, batch, rate, seed):
        targets, others = (rows.ids[rows.places].cpu() for rows in batch)
        contexts, negatives = others[: len(targets)], others[len(targets) :].view(-1, self.engine.config.shared_negatives)
        chunk = torch.arange(len(targets)) // -(-len(targets) // len(negatives))
        assert len(negatives) == -(-len(targets) // C) and negatives.shape[1] == S
        self.model.zero_grad()
        self.model(targets, contexts, negatives[chunk], K / S).backward()
        for i, (table, touched) in enumerate(
            ((self.model.target, targets), (self.model.context, torch.cat([contexts, negatives.flatten()])))
        ):
            for row in touched.unique().tolist():
                self.step(i, row, table.weight.data, table.weight.grad[row], rate)
        self._step(batch, rate, seed)

    def step(self, i, row, table, gradient, rate):
        if self.optimizer in STOCK:
            if (i, row) not in self.rows:
                self.rows[i, row] = torch.nn.Parameter(table[row].clone())
                self.trained[i, row] = STOCK[self.optimizer]([self.rows[i, row]], lr=rate)
            self.rows[i, row].grad = gradient
            self.trained[i, row].param_groups[0]["lr"] = rate
            self.trained[i, row].step()
            table[row] = self.rows[i, row].detach()
        elif self.optimizer == "rowwise_adagrad":
            self.sums[i][row] += gradient.square().sum() / D
            table[row] -= rate * gradient / self.sums[i][row].sqrt()
        else:
            table[row] -= rate * gradient


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", CHOICES["optimizer"])
def test_training_equals_the_plain_model(optimizer, device, small_chunks):
    engine = engine_of(optimizer, device=device, hot=N + 20, ahead=True)  # contexts in device memory, targets in both
    start, plain = engine.target.clone(), Plainly(engine)
    ends = train(engine, rate=100 * RATE if optimizer == "adadelta" else RATE)
    assert engine.hot == {"target": 20, "context": N}
    assert (plain.model.target.weight - start).norm() > 0.05 * start.norm(), "the run must move the rows"
    # signs and quotients of tiny gradients: what one float32 sum rounds otherwise is a step of another size in Rprop and its like
    for ours, judge in zip(ends, (plain.model.target.weight, plain.model.context.weight), strict=False):
        far = (ours - judge).abs() > 1e-4
        assert far.sum() <= (5 if optimizer in STOCK else 0), (ours - judge).abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optimizer", ["sgd", "rowwise_adagrad", "adam"])
def test_where_rows_live_changes_nothing(optimizer, dtype, small_chunks):
    """At home or in device memory, in part or whole, one batch ahead or not: the same bits."""
    judge = train(engine_of(optimizer, dtype))
    for hot in (0, 30, N + 20, 2 * N):
        for ahead in (False, True):
            for ours, expected in zip(train(engine_of(optimizer, dtype, hot=hot, ahead=ahead)), judge, strict=True):
                assert torch.equal(ours, expected), (hot, ahead)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("hot", [0, 30, N, N + 20, 2 * N])
def test_rows_of_files_train_as_in_memory(hot, ahead, small_chunks, tmp_path):
    """Spans in device memory and in files: the same bits, and all of them in the files after a flush."""
    judge, engine = engine_of("adam", torch.bfloat16), engine_of("adam", torch.bfloat16, hot=hot, ahead=ahead, files=tmp_path)
    for ours, expected in zip(train(engine), train(judge), strict=True):
        assert torch.equal(ours, expected)
    for name, table in (("target", judge.target), ("context", judge.context)):
        assert np.array_equal(np.load(tmp_path / "tables" / f"{name}.npy"), as_stored(table))


class Naive(Table):
    """One batch ahead without care: rows are fetched before the batch that is in training has written them back."""

    def ask(self, ids, before=None):
        return super().ask(ids)


def test_naive_prefetch_is_noticed(small_chunks, monkeypatch):
    judge = train(engine_of())
    monkeypatch.setattr(torch_engine, "Table", Naive)
    assert not torch.equal(train(engine_of(ahead=True))[0], judge[0])


def test_rows_are_up_to_date_whenever_they_are_looked_up(small_chunks):
    """Between two blocks, without a flush, some rows are on the device, some on their way home."""
    engine, judge = (engine_of(hot=hot, ahead=ahead) for hot, ahead in ((N + 20, True), (0, False)))
    ids = torch.randint(0, N, (5, 7), generator=torch.Generator().manual_seed(0))
    for block in range(3):
        for trained in (engine, judge):
            trained.train_block(0, block, RATE)
        for table in ("target", "context"):
            rows = engine.look_up(table, ids)
            assert rows.shape == (5, 7, D) and torch.equal(rows, judge.look_up(table, ids))
            judge.flush()
            assert torch.equal(rows.cpu(), getattr(judge, table)[ids])


def test_shared_gradients_are_those_of_autograd():
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(3, size, D, generator=generator, dtype=torch.float64, requires_grad=True) for size in (5, 5, 4)]
    present = torch.ones(3, 5, dtype=torch.float64)
    present[2, 3:] = 0
    loss = sum(sgns_loss(rows[0][i, :n], rows[1][i, :n], rows[2][i].expand(n, 4, D), 0.7) for i, n in enumerate((5, 5, 3)))
    loss.backward()
    for ours, plain in zip(shared_gradients(*(part.detach() for part in rows), 0.7, present), rows, strict=True):
        assert torch.allclose(ours, plain.grad, atol=1e-6)


def test_losing_a_duplicate_would_be_noticed(small_chunks, monkeypatch):
    """The comparison with the plain model can fail: gradients of duplicates that are not summed end elsewhere."""
    engine = engine_of()
    plain = Plainly(engine)
    monkeypatch.setattr(torch.Tensor, "index_add_", lambda self, dim, ids, part: self.index_copy_(dim, ids, part))
    assert not torch.allclose(train(engine)[0], plain.model.target.weight, atol=1e-3)


def test_rows_outside_the_batch_and_their_state_stay():
    table = Table(torch.ones(5, 2), "adam")
    working = table.ask(torch.tensor([1, 3]))
    table.arrive(working)
    table.train(working, torch.ones(2, 2), 0.1, 0)
    table.flush()
    for name, part in table.home.items():
        assert torch.equal(part[[0, 2, 4]], torch.full_like(part[[0, 2, 4]], name == "rows")), name
        assert (part[[1, 3]] != (name == "rows")).all(), name


@pytest.mark.parametrize("optimizer", sorted(STOCK))
def test_an_optimizer_counts_the_steps_of_each_row(optimizer):
    """Batches of any rows, with a rate that falls: each row as if it alone were a parameter of torch.optim, to the bit."""
    generator = torch.Generator().manual_seed(1)
    rows, state = torch.randn(6, 3, generator=generator), new_state(optimizer, 6, 3)
    plain = [torch.nn.Parameter(row.clone()) for row in rows]
    trained = [STOCK[optimizer]([row]) for row in plain]
    for step in range(25):
        ids = torch.randperm(5, generator=generator)[: step % 5 + 1]  # row 5 never
        gradient, rate = torch.randn(len(ids), 3, generator=generator), 0.1 / (1 + step)
        some, of_some = rows[ids], {name: values[ids] for name, values in state.items()}
        update(optimizer, some, gradient, of_some, rate)
        rows[ids] = some
        for name, values in of_some.items():
            state[name][ids] = values
        for row, part in zip(ids.tolist(), gradient, strict=True):
            plain[row].grad, trained[row].param_groups[0]["lr"] = part, rate
            trained[row].step()
    assert torch.equal(rows, torch.stack([row.detach() for row in plain]))
    assert state["step"][5] == 0 and state["step"].max() > 10


def test_stochastic_rounding_keeps_small_steps():
    values = torch.full((100_000,), 1 + 2**-10)  # an eighth of bfloat16's step above 1
    rounded = round_stochastically(values, torch.Generator().manual_seed(0)).float()
    assert set(rounded.unique().tolist()) == {1, 1 + 2**-7}
    assert abs(rounded.mean() - values[0]) < 2e-4
    exact = torch.tensor([0.0, -2.5, 1e-30]).bfloat16()
    assert torch.equal(round_stochastically(exact.float(), torch.Generator()), exact)


def test_rows_of_bfloat16_train_like_float32(small_chunks):
    start = engine_of(dtype=torch.float32).target
    ends = [train(engine_of(dtype=dtype))[0].float() for dtype in (torch.float32, torch.bfloat16)]
    assert (ends[1] - ends[0]).norm() < 0.1 * (ends[0] - start).norm()
    assert as_stored(engine_of(dtype=torch.bfloat16).target).dtype == np.uint16


class RefusesTheSecond:
    """A CUDA runtime that locks one slice and no more."""

    def __init__(self):
        self.locked = []

    def cudaHostRegister(self, address, size, flags):
        if self.locked:
            return 2
        self.locked.append(address)
        return 0

    def cudaHostUnregister(self, address):
        self.locked.remove(address)


def test_memory_that_cannot_be_locked_is_told_and_copied(monkeypatch, capsys):
    cuda, forgotten = RefusesTheSecond(), []
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(transfer, "forget_error", lambda: forgotten.append(1))
    monkeypatch.setattr(transfer, "SLICE", 4096)
    rows = torch.from_numpy(aligned_empty((3000, 4), np.float32))
    assert not PinnedRows(rows, "cuda", direct=True).direct
    assert cuda.locked == [] and forgotten == [1], "what was locked is released, and CUDA's error is not left behind"
    assert "refuses to page-lock 0.0 GB, after 0.0 GB (CUDA error 2). Rows travel by torch's copies instead" in capsys.readouterr().out


def test_locked_memory_is_released_with_its_rows(monkeypatch):
    cuda = RefusesTheSecond()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    rows = PinnedRows(torch.from_numpy(aligned_empty((30, 4), np.float32)), "cuda", direct=True)
    assert rows.direct and cuda.locked == [rows.rows.data_ptr()]
    del rows
    assert cuda.locked == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_kernels_that_do_not_work_are_told_once(capsys):
    kernels_work.cache_clear()
    assert not kernels_work("cuda") and not kernels_work("cuda") and not kernels_work("cpu")
    assert capsys.readouterr().out.count("Triton's kernels do not work here") == 1


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory."),
            r"The GPU failed \(CUDA out of memory\): restart the runtime, then take gpu_memory = 0.5 or batch_pairs = 32",
        ),
        (
            RuntimeError("CUDA error: an illegal memory access"),
            r"The GPU failed \(CUDA error: an illegal memory access\): restart the runtime",
        ),
    ],
)
def test_what_a_gpu_says_is_told_in_a_sentence(error, sentence, monkeypatch):
    engine = engine_of()
    monkeypatch.setattr(engine, "_train", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(TrainingError, match=f"{sentence}.*the last checkpoint is untouched"):
        engine.train_block(0, 0, RATE)


def test_another_error_is_not_taken_for_the_gpu(monkeypatch):
    engine = engine_of()
    monkeypatch.setattr(engine, "_train", lambda *_: (_ for _ in ()).throw(RuntimeError("a mistake of ours")))
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        engine.train_block(0, 0, RATE)


def test_the_engine_is_chosen_and_told():
    c = Config.of_preset("cs", dumps=["x"], device="cpu")
    chosen = {name: choose_engine(dataclasses.replace(c, **changes)) for name, changes in {
        "auto": {}, "torch": {"engine": "torch"}, "adam": {"optimizer": "adam"}, "kernel": {"engine": "kernel"},
    }.items()}  # fmt: skip
    assert [engine.__name__ for engine, _ in chosen.values()] == ["KernelEngine", "TorchEngine", "TorchEngine", "KernelEngine"]
    assert chosen["auto"][1] == "numba kernels on CPU cores"
    assert chosen["adam"][1] == "torch in batches on CPU cores"
    with pytest.raises(ConfigError, match="engine = 'kernel' cannot work: it must be 'torch' or 'auto' for optimizer adam"):
        dataclasses.replace(c, engine="kernel", optimizer="adam")


def test_hot_rows_are_contexts_first():
    assert hot_rows(100, 10, 0) == {"target": 0, "context": 0}
    assert hot_rows(100, 10, 999) == {"target": 0, "context": 99}
    assert hot_rows(100, 10, 1500) == {"target": 50, "context": 100}
    assert hot_rows(100, 10, 10**6) == {"target": 100, "context": 100}


def test_the_plan_tells_what_lives_on_the_gpu_and_what_the_optimizer_keeps():
    plan = Training(1000, 5000, 8, gpu=30_000, state_bytes=4)
    on_gpu = {item.what: (item.rows, item.bytes) for item in plan.items() if item.where == "GPU memory"}
    assert on_gpu == {
        "the hottest context rows, as they are trained": (1000, 20_000),
        "the hottest target rows, as they are trained": (500, 10_000),
    }
    adam = state_bytes(Config.of_preset("cs", dumps=["x"], dimensions=8, optimizer="adam"))
    assert adam == 4 + 2 * 4 * 8
    assert dataclasses.replace(plan, state_bytes=adam).needs("RAM") - plan.needs("RAM") == 2 * 1000 * (adam - 4)
    assert checkpoint_bytes(1000, 8, 2, adam) == 2 * 1000 * (16 + adam)


def test_an_empty_block_trains_nothing(monkeypatch):
    engine = engine_of(ahead=True)
    start = engine.target.clone()
    monkeypatch.setattr(engine.blocks, "block", lambda *_: (np.empty(0, np.int32), np.empty(0, np.int32)))
    assert engine.train_block(0, 0, RATE) == 0
    engine.flush()
    assert torch.equal(engine.target, start)
