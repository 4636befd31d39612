"""The GPU engine: how fast rows travel, how fast pairs train, resident and off-loaded, and whether they learn as on CPU cores.

Needs a GPU, and nothing but the repository: tables and graphs are made here, in a few minutes. Rates of the bus are the best of several
copies of a GB; `_fraction`s are of these. A row's bytes stand in the names of what is gathered. Rates of training are of all blocks but the
first. What a T4 should do is computed from the same byte counts, and marked so.
"""

import time

import numpy as np
import torch

from helpers.config import Config
from helpers.memory import batch_bytes, in_words
from helpers.models.sgns import sgns_loss
from helpers.pairs.noise import alias_table
from helpers.rows.files import aligned_empty
from helpers.rows.transfer import PinnedRows, kernels_work
from helpers.training.engines import KernelEngine, new_tables
from helpers.training.loop import rate_of
from helpers.training.torch_engine import TorchEngine
from tests.benchmarks.cpu import planted_score
from tests.peers import SparseSGNS
from tests.planted import planted

MOVED, OF = 1 << 17, 1 << 21  # rows, of a table of so many
GATHERED = {"512b": (128, torch.float32), "768b": (192, torch.float32), "384b": (192, torch.float16), "1024b": (512, torch.float16)}
SIZES = {"cs": (2_150_127, 512, 20), "medline": (14_886_544, 188, 20)}  # papers, D, pairs a paper
SECONDS = 15.0  # of each training
CHECKED = 200_000, 128  # papers, D: MRR on a planted graph
T4 = {"memory": 300e9, "bus": 12e9, "products": 25e12}  # bytes a second, bytes a second each way, float16 operations a second (assumed)


def run(quick: bool = False, device: str = "cuda") -> dict[str, float] | None:
    """The figures of issue 8; `quick`: small tables, a second each."""
    if device == "cuda" and not torch.cuda.is_available():
        print("This benchmark needs a GPU: nothing is measured.")
        return None
    moved, of = (MOVED // 16, OF // 64) if quick else (MOVED, OF)
    seconds = 1.0 if quick else SECONDS
    figures = bus_figures(device, 1 << 24 if quick else 1 << 30)
    for name, (D, dtype) in GATHERED.items():
        figures |= transfer_figures(device, name, moved, of, D, dtype, figures)
    figures |= {"gather_vs_torch": figures["gather_512b_gb_s"] / figures["torch_gather_512b_gb_s"]}
    if "cupy_gather_512b_gb_s" in figures:
        figures |= {"gather_vs_cupy": figures["gather_512b_gb_s"] / figures["cupy_gather_512b_gb_s"]}
    for name, (N, D, degree) in SIZES.items():
        graph = random_graph(N // 100 if quick else N, degree)
        for way, how in {"resident": {}, "14gb": {"gpu_memory": 14.0}, "offloaded": {"gpu": 0}}.items():
            figures[f"{name}_{way}_pairs_per_s"] = training_rate(device, graph, D, seconds, **how)
        if name == "cs":
            figures["sparse_adam_pairs_per_s"] = sparse_adam_rate(device, graph, D, 0.2 * seconds)
            figures["ancestor_pairs_per_s"] = ancestor_rate(device, graph, D, 0.2 * seconds)
        tell_t4(name, N, D)
    figures["vs_sparse_adam"] = figures["cs_resident_pairs_per_s"] / figures["sparse_adam_pairs_per_s"]
    figures["vs_ancestor_scheme"] = figures["cs_offloaded_pairs_per_s"] / figures["ancestor_pairs_per_s"]
    return figures | learning_figures(device, *((3_000, 32) if quick else CHECKED))


def timed(device: str, function, repeats: int = 10) -> float:
    """Seconds of one call, the best of several, all that it starts on the device included; the first is not counted."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    best = np.inf
    for i in range(repeats + 1):
        wait()
        start = time.perf_counter()
        function()
        wait()
        best = min(best, time.perf_counter() - start) if i else best
    return best


def bus_figures(device: str, size: int) -> dict[str, float]:
    """Bytes of one large copy from page-locked memory to the device and back, a second."""
    here = torch.empty(size, dtype=torch.uint8, pin_memory=device == "cuda")
    there = torch.empty(size, dtype=torch.uint8, device=device)
    rates = {"h2d_gb_s": timed(device, lambda: there.copy_(here)), "d2h_gb_s": timed(device, lambda: here.copy_(there))}
    return {name: size / 1e9 / seconds for name, seconds in rates.items()}


def transfer_figures(device: str, name: str, moved: int, of: int, D: int, dtype: torch.dtype, bus: dict) -> dict[str, float]:
    """Rows gathered and scattered by kernels, by torch, and gathered by CuPy, each compared with plain indexing."""
    rows = torch.from_numpy(aligned_empty((of, D * dtype.itemsize), np.uint8)).view(dtype)
    rows.copy_(torch.randn(of, D))
    ids = torch.randperm(of, generator=torch.Generator().manual_seed(0))[:moved].to(device)
    held, expected = torch.empty(moved, D, dtype=dtype, device=device), rows[ids.cpu()]
    figures, size = {}, held.nbytes / 1e9
    for way, direct in (("torch_", False), ("", device == "cuda")):
        pinned = PinnedRows(rows, device, direct)
        if direct != pinned.direct:
            raise SystemExit("Kernels cannot reach page-locked memory here.")
        for what, move in (("gather", pinned.gather), ("scatter", pinned.scatter)):
            seconds = timed(device, lambda move=move: move(ids, held))
            figures[f"{way}{what}_{name}_gb_s"] = size / seconds
            print(
                f"{moved:,} rows x {D} {str(dtype)[6:]}: {way or 'kernels_'}{what} {1e3 * seconds:.2f} ms, {size / seconds:.2f} GB/s",
                flush=True,
            )
        assert torch.equal(held.cpu(), expected) and torch.equal(rows[ids.cpu()], expected)
    if cupy_seconds := cupy_gather(device, rows, ids):
        figures[f"cupy_gather_{name}_gb_s"] = size / cupy_seconds
        print(f"{moved:,} rows x {D} {str(dtype)[6:]}: CuPy gather {1e3 * cupy_seconds:.2f} ms, {size / cupy_seconds:.2f} GB/s", flush=True)
    figures[f"gather_fraction_{name}"] = figures[f"gather_{name}_gb_s"] / bus["h2d_gb_s"]
    figures[f"scatter_fraction_{name}"] = figures[f"scatter_{name}_gb_s"] / bus["d2h_gb_s"]
    return figures


def cupy_gather(device: str, rows: torch.Tensor, ids: torch.Tensor) -> float | None:
    """Seconds that CuPy takes to index an array in page-locked memory, as SpeedTorch does; None where it is not installed."""
    try:
        import cupy
    except ImportError:
        return None
    if device != "cuda":
        return None
    memory = cupy.cuda.alloc_pinned_memory(rows.nbytes)
    there = cupy.ndarray(
        rows.shape, rows.numpy().dtype, cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(memory.ptr, rows.nbytes, memory), 0)
    )
    there.set(rows.numpy())
    places = cupy.from_dlpack(ids)
    return timed(device, lambda: there[places])


def random_graph(N: int, degree: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(indptr, contexts, noise table) of a graph whose contexts follow a power law: rates depend on ids alone."""
    generator = np.random.default_rng(0)
    contexts = (N * generator.random(N * degree, dtype=np.float32) ** 2).astype(np.int32)
    np.minimum(contexts, N - 1, out=contexts)
    return np.arange(N + 1) * degree, contexts, alias_table(np.maximum(np.bincount(contexts, minlength=N), 1), 0.75)


def training_rate(device: str, graph, D: int, seconds: float, gpu: int | None = None, **settings) -> float:
    """Pairs a second of the torch engine, of bfloat16 rows, by row-wise Adagrad."""
    indptr, contexts, noise = graph
    config = Config.of_preset("medline", dumps=["x"], out="none", dimensions=D, device=device, **settings)
    tables = [torch.from_numpy(aligned_empty((len(indptr) - 1, 2 * D), np.uint8)).view(torch.bfloat16).fill_(0.01) for _ in range(2)]
    engine = TorchEngine(config, indptr, contexts, noise, *tables, gpu=gpu)
    engine.train_block(0, 0, 1e-6)
    trained, block, wait = 0, 0, torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        block += 1
        trained += engine.train_block(*divmod(block, engine.blocks.blocks), 1e-6)
    wait()
    rate = trained / (time.perf_counter() - start)
    beside = in_words(batch_bytes(engine.pairs, len(tables[0]), D, config.shared_negatives))
    taken = in_words(torch.cuda.max_memory_allocated()) if device == "cuda" else "-"
    print(
        f"{len(tables[0]):,} x {D}, hot rows {engine.hot}: {rate / 1e6:.2f} M pairs/s, GPU memory {taken} (a batch: {beside} planned)",
        flush=True,
    )
    del engine, tables
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return rate


def sparse_adam_rate(device: str, graph, D: int, seconds: float) -> float:
    """Pairs a second of `nn.Embedding(sparse=True)` and SparseAdam, both tables on the device, at its best batch size."""
    indptr, contexts, _ = graph
    N, generator, rates = len(indptr) - 1, torch.Generator(device).manual_seed(0), {}
    model = SparseSGNS(N, D).to(device)
    optimizer = torch.optim.SparseAdam(list(model.parameters()), lr=1e-3)
    ids = torch.from_numpy(contexts[: 1 << 24]).to(device).long()
    for B in (4096, 32_768, 131_072):

        def step(B=B):
            optimizer.zero_grad()
            drawn = ids[torch.randint(len(ids), (2, B), generator=generator, device=device)]
            model(*drawn, torch.randint(N, (B, 5), generator=generator, device=device)).backward()
            optimizer.step()

        rates[B] = B / timed(device, step, repeats=max(2, int(seconds)))
    print(f"SparseAdam, pairs a second by batch: { {B: round(rate) for B, rate in rates.items()} }", flush=True)
    return max(rates.values())


def ancestor_rate(device: str, graph, D: int, seconds: float, B: int = 512, positives: int = 4, negatives: int = 132) -> float:
    """Positive pairs a second of Research2Vec2's scheme: rows, of private negatives, gathered from locked memory and written back."""
    N, generator = len(graph[0]) - 1, torch.Generator(device).manual_seed(0)
    direct = kernels_work(device)
    tables = [PinnedRows(torch.from_numpy(aligned_empty((N, D), np.float32)).fill_(0.01), device, direct) for _ in range(2)]

    def step():
        ids = [torch.randint(N, (B * count,), generator=generator, device=device) for count in (1, positives + negatives)]
        pairs = zip(tables, ids, strict=True)
        rows = [table.gather(of, torch.empty(len(of), D, device=device)).requires_grad_() for table, of in pairs]
        target = rows[0].repeat_interleave(positives, dim=0)
        of_contexts = rows[1].view(B, -1, D)
        loss = sgns_loss(target, of_contexts[:, :positives].reshape(-1, D), torch.empty(len(target), 0, D, device=device))
        loss = loss + sgns_loss(rows[0], torch.zeros_like(rows[0]), of_contexts[:, positives:])
        for row, of, table, gradient in zip(rows, ids, tables, torch.autograd.grad(loss, rows), strict=True):
            table.scatter(of, (row - 1e-6 * gradient).detach())

    rate = B * positives / timed(device, step, repeats=max(3, int(4 * seconds)))
    print(f"The ancestor's scheme: {rate:,.0f} pairs/s", flush=True)
    return rate


def learning_figures(device: str, N: int, D: int) -> dict[str, float]:
    """MRR after one epoch of the same pairs and settings on both engines, from the same start: planted topics."""
    pairs = planted(N)
    config = Config.of_preset("medline", dumps=["x"], subset="all", out="none", dimensions=D, epochs=1, device=device)
    figures = {}
    for name, Engine in (("cpu", KernelEngine), ("gpu", TorchEngine)):
        engine = Engine(config, pairs.indptr, pairs.contexts, pairs.noise, *new_tables(config, pairs.indptr, pairs.contexts))
        done = 0
        for block in range(engine.blocks.blocks):
            done += engine.train_block(0, block, rate_of(config, done, engine.blocks.pairs))
        engine.flush()
        scores = planted_score(pairs, most=4000)(engine.target.float().numpy(), engine.context.float().numpy())
        figures[f"{name}_engine_mrr"] = max(float(score[0]) for score in scores.values())
    return figures | {"mrr_vs_cpu_engine": figures["gpu_engine_mrr"] / figures["cpu_engine_mrr"]}


def tell_t4(name: str, N: int, D: int, B: int = 1 << 16, chunk: int = 4096, S: int = 512) -> None:
    """What a T4 should do, computed: bytes and operations of a pair over what its memory, bus and units do a second."""
    rows = 2 + S / chunk  # touched a pair, at most
    operations, moved = 6 * S * D, rows * D * (2 + 2) + 2 * D * 4 * 6 + S * 2 * 6
    resident = 1 / (operations / T4["products"] + moved / T4["memory"])
    offloaded = min(resident, T4["bus"] / (rows * D * 2))
    fits = "fits" if 2 * N * (2 * D + 4) + batch_bytes(B, N, D, S) < 14e9 else "does not fit"
    print(
        f"T4, computed, not measured: {name} ({fits} its memory): resident {resident / 1e6:.1f}, off-loaded {offloaded / 1e6:.1f} M pairs/s"
    )
