"""Rows between host memory and the GPU: by kernels that read page-locked memory themselves, or by torch's indexing and copies."""

import contextlib
import functools
import mmap
import weakref

import torch

from helpers.errors import in_a_line
from helpers.prefetch import read_ahead
from helpers.progress import progress
from helpers.rows.files import as_stored

SLICE = 1 << 30  # bytes locked at a time
PORTABLE, MAPPED = 1, 2  # of cudaHostRegister: locked for all contexts, and readable by kernels
TILE = 2048  # words that one program of a kernel moves


class PinnedRows:
    """Rows of any type in one memory, used in place, that a device reads (`gather`) and writes (`scatter`) by their ids.

    rows: (N, ...), contiguous, in host memory or on the device itself; direct: kernels move them, through pages locked here, where they
    begin at a page (on a CPU, what Triton's interpreter runs), None = where kernels work; mapped: rows are a file's, read ahead."""

    def __init__(self, rows: torch.Tensor, device: torch.device | str = "cpu", direct: bool | None = None, mapped=False):
        self.rows, self.device, self.mapped = rows, torch.device(device), mapped
        lockable = not mapped and rows.data_ptr() % mmap.PAGESIZE == 0 and len(rows) > 0
        self.direct = lockable and (kernels_work(str(device)) if direct is None else direct)
        if self.direct and self.device.type == "cuda":
            if locked := _lock(rows):
                self.release = weakref.finalize(self, _unlock, locked)
            self.direct = bool(locked)

    def gather(self, ids: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """out[i] = rows[ids[i]]; ids: int64 (n,), out: (n, ...) of the rows' type, both on the device. Returns out."""
        if self.mapped:
            read_ahead(as_stored(self.rows), ids.cpu().numpy())
        if self.direct:
            move_rows(self.rows, ids, out)
        elif self.rows.device.type == self.device.type:
            torch.index_select(self.rows, 0, ids, out=out)
        else:
            out.copy_(torch.index_select(self.rows, 0, ids.cpu(), out=_staging(out)), non_blocking=True)
        return out

    def scatter(self, ids: torch.Tensor, held: torch.Tensor) -> None:
        """rows[ids[i]] = held[i]; ids, all different: int64 (n,), held: (n, ...) of the rows' type, both on the device."""
        if self.direct:
            move_rows(self.rows, ids, held, back=True)
        else:
            here = held if self.rows.device.type == self.device.type else _staging(held).copy_(held)
            self.rows.index_copy_(0, ids.to(self.rows.device), here)


def _staging(held: torch.Tensor) -> torch.Tensor:
    # A buffer of torch's pinned memory, which is given out again when the copies from it are done
    return torch.empty_like(held, device="cpu", pin_memory=True)


def as_words(rows: torch.Tensor) -> torch.Tensor:
    """Rows (N, ...) of any type as what kernels move: int32 words, or int16 where a row has an odd number of them; no copy."""
    flat = rows.view(len(rows), -1)
    return flat.view(torch.int32 if flat.shape[1] * flat.element_size() % 4 == 0 else torch.int16)


def move_rows(rows: torch.Tensor, ids: torch.Tensor, held: torch.Tensor, back: bool = False) -> None:
    """`held[i] = rows[ids[i]]`, or `back` the other way, by a kernel; rows: (N, ...), held: (n, ...) of one type; ids: int64 (n,)."""
    from helpers.rows import gpu_kernels

    words = as_words(rows).shape[1]
    columns = min(1024, 1 << (words - 1).bit_length())
    count = TILE // columns
    if len(ids):
        grid = -(-len(ids) // count), -(-words // columns)
        gpu_kernels.move[grid](as_words(rows), ids, as_words(held), len(ids), words, back, count, columns)


def _lock(rows: torch.Tensor) -> list[int]:
    # Page-lock rows at their exact size, slice after slice; returns the slices' addresses: none, and says so, where that is refused
    cudart, base, size, locked = torch.cuda.cudart(), rows.data_ptr(), rows.nbytes, []
    slices = range(0, size, SLICE)
    for first in progress(slices, title="Page-locking", unit=" GB") if len(slices) > 1 else slices:
        code = int(cudart.cudaHostRegister(base + first, min(SLICE, size - first), PORTABLE | MAPPED))
        if code:
            _unlock(locked)
            forget_error()
            told = f"The system refuses to page-lock {size / 1e9:.1f} GB, after {first / 1e9:.1f} GB (CUDA error {code})."
            print(f"{told} Rows travel by torch's copies instead, slower.")
            return []
        locked.append(base + first)
    return locked


def _unlock(locked: list[int]) -> None:
    # Release slices that `_lock` locked, once nothing reads them any more
    torch.cuda.synchronize()
    for address in locked:
        torch.cuda.cudart().cudaHostUnregister(address)


def forget_error() -> None:
    """Clear CUDA's last error: what was refused and is dealt with would be blamed on the next kernel."""
    with contextlib.suppress(RuntimeError):  # told, and thereby cleared
        torch.zeros(1, device="cuda").add_(1)


@functools.cache
def kernels_work(device: str) -> bool:
    """Whether Triton's kernels compile and run on a device, tried once; says so where a GPU has to do without."""
    if torch.device(device).type != "cuda":
        return False
    try:
        held, rows = torch.empty(3, 5, device=device), torch.rand(7, 5, device=device)
        move_rows(rows, torch.tensor([6, 0, 3], device=device), held)
        return torch.equal(held, rows[[6, 0, 3]])
    except Exception as error:  # whatever a compiler says: torch can do the same
        print(f"Triton's kernels do not work here ({in_a_line(error)}): torch does their work, slower.")
        return False
