"""Tables of rows in spans: the hottest rows in device memory, the others at home, in host memory or a file, visiting batch by batch."""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from helpers.prefetch import read_ahead
from helpers.rows import optimizers
from helpers.rows.bfloat16 import as_stored, round_stochastically
from helpers.rows.transfer import PinnedRows, aligned_empty, kernels_work


@dataclasses.dataclass
class Working:
    """A batch's rows on the device: ids int64 (U,), different, ascending; parts: rows and state, each (U, ...), as they are stored."""

    ids: torch.Tensor
    hot: int  # so many of them, the first, live in device memory
    parts: dict[str, torch.Tensor]
    ready: Future | None = None  # of what comes from home beside the training
    mine: torch.Tensor | None = None  # which of these come from the batch before instead, and
    theirs: torch.Tensor | None = None  # which they are there
    going: torch.Tensor | None = None  # which are written home: all but those that the next batch has, too


class Table:
    """N rows of D values, and what their optimiser keeps of each: rows below `hot` in device memory, all others where they are.

    rows: float32 or bfloat16 (N, D) on the CPU; state: by name, (N,) or (N, D). Both are their home: used in place, and up to date after
    `flush`. mapped: rows are a file's, the next `kept` are copied to host memory. ahead: a batch's rows travel while others are trained.
    """

    # ahead: a thread writes the rows of the batch before home and fetches the next one's: the same bits as without (what two batches share
    # never goes home in between). Nothing checks ids: the engine has, once.

    def __init__(self, rows, optimizer: str, state=None, device="cpu", hot=0, ahead=False, mapped=False, kept=0, direct=None):
        self.device, self.optimizer, self.hot = torch.device(device), optimizer, hot
        self.home = {"rows": rows, **(optimizers.new_state(optimizer, *rows.shape) if state is None else state)}
        if mapped:
            read_ahead(as_stored(rows), slice(0, hot + kept))
        self._hot = {name: part[:hot].to(self.device, copy=True) for name, part in self.home.items()}
        cold = self.home.items() if hot < len(rows) else ()
        self._cold = {name: [(hot, 0, PinnedRows(part, device, direct))] for name, part in cold if not mapped or name != "rows"}
        self._copies = [(name, slice(0, hot), part) for name, part in self._hot.items()]
        if mapped and cold:
            held = torch.from_numpy(aligned_empty((kept, rows[:1].nbytes), np.uint8)).view(rows.dtype).copy_(rows[hot : hot + kept])
            self._copies.append(("rows", slice(hot, hot + kept), held))
            of_file = hot + kept, 0, PinnedRows(rows, device, direct=False, mapped=True)
            self._cold["rows"] = [(hot, hot, PinnedRows(held, device, direct)), of_file]
        self._fused = optimizer not in optimizers.STOCK and kernels_work(str(device))
        self._queue = ThreadPoolExecutor(1) if ahead and cold else None
        self._stream = torch.cuda.Stream() if self._queue and self.device.type == "cuda" else None
        self._leaving = None  # the working rows whose way home the next `ask` begins

    def ask(self, ids: torch.Tensor, before: Working | None = None) -> Working:
        """Have rows of `ids` (int64 (U,), different, ascending, on the device) gathered; ahead: while `before`, not yet trained, is."""
        hot = int(torch.searchsorted(ids, self.hot)) if self._cold else len(ids)
        parts = {name: part.new_empty((len(ids), *part.shape[1:]), device=self.device) for name, part in self.home.items()}
        working, new = Working(ids, hot, parts), torch.arange(hot, len(ids), device=self.device)
        working.going = new
        if not self._queue:
            before = None
        if before:
            place = torch.searchsorted(before.ids, ids).clamp_(max=len(before.ids) - 1)
            shared = before.ids[place] == ids
            shared[:hot] = False
            working.mine, working.theirs = shared.nonzero().flatten(), place[shared]
            new = new[~shared[hot:]]
            stay = torch.zeros(len(before.ids), dtype=torch.bool, device=self.device)
            stay[working.theirs] = True
            before.going = before.going[~stay[before.hot :]]
        leaving, self._leaving = self._leaving, before
        self._submit(working, lambda: (self._send_home(leaving), self._fetch(working, new)))
        return working

    def arrive(self, working: Working, before: Working | None = None) -> torch.Tensor:
        """Wait for rows asked for, `before` having been trained; returns them, as stored (U, D), to be read until `train`."""
        if working.ready:
            working.ready.result()
        for name, part in working.parts.items():
            part[: working.hot] = self._hot[name][working.ids[: working.hot]]
            if working.mine is not None:
                part[working.mine] = before.parts[name][working.theirs]
        return working.parts["rows"]

    def train(self, working: Working, gradient: torch.Tensor, learning_rate: float, seed: int) -> None:
        """One step of the optimiser from the gradient float32 (U, D), summed over duplicates; bfloat16 is rounded by the seed."""
        rows, state = working.parts["rows"], {name: part for name, part in working.parts.items() if name != "rows"}
        if self._fused:
            _train_fused(rows, gradient, state.get("sums"), learning_rate, seed)
        else:
            values = rows.float()
            optimizers.update(self.optimizer, values, gradient, state, learning_rate)
            if rows.dtype == torch.bfloat16:
                values = round_stochastically(values, torch.Generator(self.device).manual_seed(seed))
            rows.copy_(values)
        for name, part in working.parts.items():
            self._hot[name][working.ids[: working.hot]] = part[: working.hot]
        if self._leaving is not working:  # no batch was asked for meanwhile
            self._settle()
        self._leaving = working
        if not self._queue:
            self._settle()

    def read(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows of `ids` (int64, any shape, duplicates welcome) as they are now, float32 (*shape, D) on the device."""
        self._settle()
        unique, index = torch.unique(ids.to(self.device), return_inverse=True)
        working = self.ask(unique)
        return self.arrive(working)[index].float()

    def flush(self) -> None:
        """Bring rows and state up to date at home: before a checkpoint or an evaluation."""
        self._settle()
        for name, where, part in self._copies:
            self.home[name][where].copy_(part)

    def _settle(self) -> None:
        # what was trained last goes home, too
        if self._leaving:
            last, self._leaving = self._leaving, None
            self._submit(last, lambda: self._send_home(last))
            if last.ready:
                last.ready.result()

    def _submit(self, working: Working, job) -> None:
        if not self._queue:
            return job()
        # The device's memory is given out again in the order of the training: what was in it must be done with before it is filled.
        ready = torch.cuda.current_stream().record_event() if self._stream else None

        def beside():
            if not self._stream:
                return job()
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(ready)
                job()
                self._stream.synchronize()

        working.ready = self._queue.submit(beside)

    def _fetch(self, working: Working, new: torch.Tensor) -> None:
        for name in self._cold:
            out = working.parts[name].new_empty((len(new), *self.home[name].shape[1:]))
            for rows, ids, where in self._by_span(name, working.ids[new]):
                rows.gather(ids, out[where])
            working.parts[name][new] = out

    def _send_home(self, working: Working | None) -> None:
        for name in self._cold if working else ():
            held = working.parts[name][working.going]
            for rows, ids, where in self._by_span(name, working.ids[working.going]):
                rows.scatter(ids, held[where])

    def _by_span(self, name: str, ids: torch.Tensor) -> Iterator[tuple[PinnedRows, torch.Tensor, slice]]:
        # (where rows live, which of them, which of `ids` they are), span by span; ids: ascending
        spans = self._cold[name]
        firsts = torch.tensor([first for first, _, _ in spans[1:]], device=self.device)
        bounds = [0, *(torch.searchsorted(ids, firsts).tolist() if len(firsts) else ()), len(ids)]
        for (_, begin, rows), first, last in zip(spans, bounds[:-1], bounds[1:], strict=True):
            yield rows, ids[first:last] - begin, slice(first, last)


def _train_fused(rows: torch.Tensor, gradient: torch.Tensor, sums: torch.Tensor | None, learning_rate: float, seed: int) -> None:
    from helpers.rows import gpu_kernels

    U, D = rows.shape
    stored, adagrad = rows.view(torch.int16) if rows.dtype == torch.bfloat16 else rows, sums is not None
    if U:
        how = adagrad, rows.dtype == torch.bfloat16, 1 << (D - 1).bit_length()
        gpu_kernels.update[(U,)](stored, gradient, sums if adagrad else gradient, learning_rate, seed, D, *how)
