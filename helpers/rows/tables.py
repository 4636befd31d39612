"""Off-loaded rows: a table too large for the GPU stays in CPU memory, and only the rows of a batch, with their state, visit the device."""

import dataclasses

import torch

from helpers.rows.bfloat16 import round_stochastically
from helpers.rows.optimizers import UPDATES, new_sums


@dataclasses.dataclass
class WorkingRows:
    """A batch's rows on the compute device."""

    ids: torch.Tensor  # int64 (U,), the different rows of the batch, ascending, on the CPU
    rows: torch.Tensor  # float32 (U, D), a leaf whose gradient sums over duplicates
    index: torch.Tensor  # int64, the shape of the ids asked for: which of `rows` each of them is

    def looked_up(self) -> torch.Tensor:
        """The rows in the order asked for, float32 (*shape of the ids, D)."""
        return torch.nn.functional.embedding(self.index, self.rows)


class OffloadedTable:
    """N rows of D values in CPU memory (page-locked where the device is a GPU), gathered, trained and written back batch by batch.

    rows: float32 or bfloat16 (N, D) on the CPU, taken over, not copied (but for page-locking); optimizer: a name in UPDATES.
    A batch trained through it gives the same table as a dense `nn.Embedding` with the same optimiser: duplicates of a row are summed first.
    """

    def __init__(self, rows: torch.Tensor, optimizer: str, device: torch.device | str = "cpu", sums: torch.Tensor | None = None):
        if rows.dtype not in (torch.float32, torch.bfloat16) or rows.dim() != 2 or rows.device.type != "cpu":
            raise ValueError(f"rows must be float32 or bfloat16 (N, D) on the CPU, not {rows.dtype} {tuple(rows.shape)} on {rows.device}")
        self.device = torch.device(device)
        lock = torch.Tensor.pin_memory if self.device.type == "cuda" else lambda tensor: tensor
        self.rows = lock(rows)
        sums = new_sums(optimizer, len(rows)) if sums is None else sums
        self.sums = None if sums is None else lock(sums)  # float32 (N,) or None
        self._update = UPDATES[optimizer]

    def gather(self, ids: torch.Tensor) -> WorkingRows:
        """The rows of `ids` (int64, any shape, duplicates welcome) on the device, ready for autograd; IndexError for an id outside."""
        unique, index = torch.unique(ids, return_inverse=True)
        if len(unique) and not (0 <= unique[0] and unique[-1] < len(self.rows)):  # a negative id would index from the end
            raise IndexError(f"ids from {unique[0]} to {unique[-1]} do not fit a table of {len(self.rows)} rows")
        rows = self.rows.index_select(0, unique).to(self.device).float()
        return WorkingRows(unique, rows.requires_grad_(), index.to(self.device))

    @torch.no_grad()
    def update(self, working: WorkingRows, learning_rate: float) -> None:
        """One optimiser step on gathered rows, from the gradient that `backward` left on them; rows and state are written back."""
        rows, sums = working.rows.detach(), None
        if self.sums is not None:
            sums = self.sums.index_select(0, working.ids).to(self.device)
        self._update(rows, working.rows.grad, sums, learning_rate)
        rows = round_stochastically(rows) if self.rows.dtype == torch.bfloat16 else rows
        self.rows.index_copy_(0, working.ids, rows.cpu())
        if sums is not None:
            self.sums.index_copy_(0, working.ids, sums.cpu())
