"""Training by torch, in batches, on any device: chunks of pairs share negatives, tables are in spans, and the optimiser is any."""

import contextlib
import itertools
from collections.abc import Iterator

import torch

from helpers.config import Config
from helpers.errors import TrainingError, in_a_line
from helpers.memory import TABLES, available_gpu, batch_bytes, hot_rows
from helpers.models.sgns import shared_gradients
from helpers.rows.tables import Table, Working, new_state
from helpers.training.engines import Engine

CHUNK = 4096  # pairs that share their negatives, at most
LEAST_PAIRS, LEAST_STEPS = 1024, 256  # of a batch, and batches an epoch: a small graph is trained in smaller ones


class TorchEngine(Engine):
    """Trains by torch in batches, whose chunks share negatives, with any optimiser; the tables are in spans, on a GPU the hottest rows.

    config.shared_negatives (S) negatives a chunk of pairs, each weighing negatives / S; gpu: bytes of device memory for rows, None = what
    is free; ahead: rows travel while others are trained; direct: by kernels, None = if they work."""

    def __init__(self, config, indptr, *tables, gpu: int | None = None, ahead=True, direct=None, **given):
        super().__init__(config, indptr, *tables, **given)
        N, D = self.target.shape
        self.device = pick_device(config)
        self.pairs = batch_size(config, self.blocks.pairs)
        room = gpu_room(config, N, self.blocks.pairs) if gpu is None else gpu
        self.hot = hot_rows(N, D * self.target.itemsize + state_bytes(config), room)
        self.tables = []
        for name, rows, mapped in zip(TABLES, (self.target, self.context), (config.tables_on_disk, config.contexts_on_disk), strict=True):
            state = {kept.removeprefix(f"{name}_"): values for kept, values in self.state.items() if kept.startswith(name)}
            self.tables.append(Table(rows, config.optimizer, state, self.device, self.hot[name], ahead, mapped, direct))
        self._threshold, self._alias = (torch.from_numpy(self.noise[name].copy()).to(self.device) for name in ("threshold", "alias"))
        self._compute = torch.float16 if self.device.type == "cuda" and self.target.dtype == torch.bfloat16 else torch.float32

    def look_up(self, table: str, ids: torch.Tensor) -> torch.Tensor:
        """The rows of `ids` (int64, any shape) as they are now, float32 (*shape, D) on the device; table: target or context."""
        return self.tables[TABLES.index(table)].read(ids)

    def train_block(self, epoch: int, block: int, learning_rate: float, progress=lambda pairs: None) -> int:
        """Train the block's pairs once, in a random order; returns how many they are. TrainingError where the GPU gives up."""
        with _gpu_errors_told(self):
            pairs, on_gpu = map(torch.from_numpy, self.blocks.block(epoch, block)), self.device.type == "cuda"
            targets, contexts = (ids.pin_memory().to(self.device, non_blocking=True) if on_gpu else ids for ids in pairs)
            seed = int(self.blocks.generator(epoch, block).integers(1 << 30))
            batches = self._batches(targets, contexts, torch.Generator(self.device).manual_seed(seed))
            # the next one is asked for before this one is trained
            for step, (batch, _) in enumerate(itertools.pairwise(itertools.chain(batches, [None]))):
                self._train(batch, learning_rate, 2 * (seed + step) & 0x7FFFFFFF)
                progress(len(batch[0].places))
        return len(targets)

    def _batches(self, targets: torch.Tensor, contexts: torch.Tensor, generator: torch.Generator) -> Iterator[list[Working]]:
        # Of each batch the rows of the targets (B,), and of the contexts (B,) with the negatives (S for each chunk) behind them
        order = torch.randperm(len(targets), generator=generator, device=self.device)  # a batch should not be one hub alone
        batch = None, None
        for pairs in order.split(self.pairs) if len(order) else ():  # a block may be empty
            size = -(-len(pairs) // CHUNK), self.config.shared_negatives
            papers = torch.randint(len(self._alias), size, generator=generator, device=self.device)
            kept = torch.rand(size, generator=generator, device=self.device) < self._threshold[papers]
            negatives = torch.where(kept, papers, self._alias[papers].long())
            asked = targets[pairs].long(), torch.cat([contexts[pairs].long(), negatives.flatten()])
            batch = [table.ask(*of_table) for table, *of_table in zip(self.tables, asked, batch, strict=True)]
            yield batch

    def _train(self, batch: list[Working], learning_rate: float, seed: int) -> None:
        B, D = len(batch[0].places), self.target.shape[1]
        negatives = batch[1].places[B:].view(-1, self.config.shared_negatives)
        chunks, more = len(negatives), -B % len(negatives)  # more: what fills the chunks up, and counts nothing
        rows = [table.arrive(working).to(self._compute) for table, working in zip(self.tables, batch, strict=True)]
        present = (torch.arange(B + more, device=self.device) < B).float().view(chunks, -1)
        filled = (torch.nn.functional.pad(working.places[:B], (0, more)) for working in batch)
        looked_up = [of[ids].view(chunks, -1, D) for of, ids in zip(rows, filled, strict=True)]
        weight = self.config.negatives / self.config.shared_negatives
        gradients = [part.view(-1, D).float() for part in shared_gradients(*looked_up, rows[1][negatives], weight, present)]
        parts = gradients[0][:B], torch.cat([gradients[1][:B], gradients[2]])
        for i, (table, working, part) in enumerate(zip(self.tables, batch, parts, strict=True)):
            gradient = torch.zeros(rows[i].shape, device=self.device).index_add_(0, working.places, part)
            table.train(working, gradient, learning_rate, seed + i)


def batch_size(config: Config, P: int) -> int:
    """Pairs a step of the torch engine, of P pairs an epoch."""
    return min(config.batch_pairs, max(LEAST_PAIRS, P // LEAST_STEPS))


def state_bytes(config: Config) -> int:
    """Bytes that the optimiser keeps of a row."""
    return sum(values.nbytes for values in new_state(config.optimizer, 1, config.dimensions).values())


def gpu_room(config: Config, N: int, P: int) -> int:
    """Bytes of device memory for rows of N papers, beside a batch of the torch engine, P pairs being an epoch; 0 without a GPU."""
    if pick_device(config).type != "cuda":
        return 0
    return max(0, available_gpu(config.gpu_memory) - batch_bytes(batch_size(config, P), N, config.dimensions, config.shared_negatives))


@contextlib.contextmanager
def _gpu_errors_told(engine: TorchEngine) -> Iterator[None]:
    # Say in one sentence, as TrainingError, what a GPU says in a traceback, and what to do
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError, too
        if "CUDA" not in str(error):
            raise
        fits = f"gpu_memory = {max(0.5, 0.8 * torch.cuda.memory_allocated() / 1e9):.1f} or batch_pairs = {engine.pairs // 2}"
        advice = f"restart the runtime, then take {fits} where memory ran out, else engine 'kernel'"
        raise TrainingError(f"The GPU failed ({in_a_line(error)}): {advice}; the last checkpoint is untouched.") from error


def pick_device(config: Config) -> torch.device:
    """The compute device: the setting, or the GPU where there is one."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise TrainingError("device = 'cuda', but this machine has no GPU that torch can use; choose a GPU runtime, or device 'cpu'.")
    return torch.device("cuda" if available and config.device != "cpu" else "cpu")
