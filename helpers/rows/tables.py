"""Tables whose rows are in several places, the hottest in device memory, others visiting batch by batch; and optimisers of their rows."""

import dataclasses
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from helpers.config import RATES
from helpers.prefetch import read_ahead
from helpers.rows.files import aligned_empty, as_stored, round_stochastically
from helpers.rows.transfer import PinnedRows, kernels_work

FIRST_SUM = 1e-4  # row-wise Adagrad's sum of squares at the start: small, so that the first steps already have the full rate
# Those of torch.optim that look at each value by itself, by the names that they are set by.
STOCK = {name.lower(): kind for name, kind in vars(torch.optim).items() if name.lower() in RATES and isinstance(kind, type)}


@dataclasses.dataclass
class Working:
    """A batch's rows on the device: ids int64 (U,), different, ascending; parts: rows and state, each (U, ...), as they are stored."""

    ids: torch.Tensor
    places: torch.Tensor  # int64, of any shape: where what was asked for is among these
    parts: dict[str, torch.Tensor]
    ready: Future | None = None  # of what comes from home beside the training; None: it comes when it is waited for
    shared: tuple | None = None  # the batch before, which of these come from it instead, and which they are there


class Table:
    """N rows of D values, and what their optimiser keeps of each: rows below `hot` in device memory, all others where they are.

    rows: float32 or bfloat16 (N, D) on the CPU; state: by name, (N,) or (N, D). Both are their home: used in place, and up to date after
    `flush`. mapped: rows are a file's. ahead: a batch's rows travel while others are trained."""

    # ahead: a thread writes the rows of the batch before home and fetches the next one's: the same bits as without (what two batches share
    # is handed on between them). Nothing checks ids: the engine has, once.

    def __init__(self, rows, optimizer: str, state=None, device="cpu", hot=0, ahead=False, mapped=False, direct=None):
        self.device, self.optimizer = torch.device(device), optimizer
        self.home = {"rows": rows, **(new_state(optimizer, *rows.shape) if state is None else state)}
        read_ahead(as_stored(rows), slice(0, hot))  # where they are a file's
        cold, self._hot = hot < len(rows), hot
        self._held = {name: PinnedRows(part[:hot].to(self.device, copy=True), device, direct=False) for name, part in self.home.items()}
        self._at_home = {name: PinnedRows(part, device, cold and direct, mapped and name == "rows") for name, part in self.home.items()}
        self._fused = optimizer not in STOCK and kernels_work(str(device))
        self._queue = ThreadPoolExecutor(1) if ahead and cold else None
        self._stream = torch.cuda.Stream() if self._queue and self.device.type == "cuda" else None
        self._leaving = None  # the working rows whose way home the next `ask` begins

    def ask(self, ids: torch.Tensor, before: Working | None = None) -> Working:
        """Have rows of `ids` (int64, any shape, duplicates welcome) gathered; ahead: while `before`, not yet trained, is."""
        ids, places = torch.unique(ids.to(self.device), return_inverse=True)
        parts = {name: part.new_empty((len(ids), *part.shape[1:]), device=self.device) for name, part in self.home.items()}
        working, new = Working(ids, places, parts), ...
        if not self._queue:
            return working
        if before:
            shared = torch.isin(ids, before.ids, assume_unique=True)
            mine, new = shared.nonzero().flatten(), (~shared).nonzero().flatten()
            working.shared = before, mine, torch.searchsorted(before.ids, ids[mine])
        leaving, self._leaving = self._leaving, None
        self._submit(working, lambda: (leaving and self._send_home(leaving), self._fetch(working, new)))
        return working

    def arrive(self, working: Working) -> torch.Tensor:
        """Wait for rows asked for, those before them having been trained; returns them, as stored (U, D), to be read until `train`."""
        if working.ready:
            working.ready.result()
        else:
            self._fetch(working)
        if working.shared:
            (before, mine, theirs), working.shared = working.shared, None
            for name, part in working.parts.items():
                part[mine] = before.parts[name][theirs]
        return working.parts["rows"]

    def train(self, working: Working, gradient: torch.Tensor, learning_rate: float, seed: int) -> None:
        """One step of the optimiser from the gradient float32 (U, D), summed over duplicates; bfloat16 is rounded by the seed."""
        rows, state = working.parts["rows"], {name: part for name, part in working.parts.items() if name != "rows"}
        if self._fused:
            _train_fused(rows, gradient, state.get("sums"), learning_rate, seed)
        else:
            values = rows.float()
            update(self.optimizer, values, gradient, state, learning_rate)
            if rows.dtype == torch.bfloat16:
                values = round_stochastically(values, torch.Generator(self.device).manual_seed(seed))
            rows.copy_(values)
        if not self._queue:
            return self._send_home(working)
        self._settle()  # the one before, where no batch was asked for meanwhile
        self._leaving = working

    def read(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows of `ids` (int64, any shape, duplicates welcome) as they are now, float32 (*shape, D) on the device."""
        self._settle()
        working = self.ask(ids)
        return self.arrive(working)[working.places].float()

    def flush(self) -> None:
        """Bring rows and state up to date at home: before a checkpoint or an evaluation."""
        self._settle()
        for name, held in self._held.items():
            self.home[name][: self._hot].copy_(held.rows)

    def _settle(self) -> None:
        # what was trained last goes home, too
        if self._leaving:
            last, self._leaving = self._leaving, None
            self._submit(last, lambda: self._send_home(last))
            last.ready.result()

    def _submit(self, working: Working, job) -> None:
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

    def _fetch(self, working: Working, new: torch.Tensor = ...) -> None:
        spans = self._by_span(working.ids[new])
        for name, part in working.parts.items():
            out = part.new_empty((len(working.ids[new]), *part.shape[1:]))
            for holders, ids, where in spans:
                holders[name].gather(ids, out[where])
            part[new] = out

    def _send_home(self, working: Working) -> None:
        spans = self._by_span(working.ids)
        for name, part in working.parts.items():
            for holders, ids, where in spans:
                holders[name].scatter(ids, part[where])

    def _by_span(self, ids: torch.Tensor) -> list[tuple[dict[str, PinnedRows], torch.Tensor, slice]]:
        # (what holds them, which, where they are among `ids`): on the device, and at home; ids: ascending
        first = int(torch.searchsorted(ids, self._hot))
        return [(self._held, ids[:first], slice(0, first)), (self._at_home, ids[first:], slice(first, len(ids)))]


def _train_fused(rows: torch.Tensor, gradient: torch.Tensor, sums: torch.Tensor | None, learning_rate: float, seed: int) -> None:
    from helpers.rows import gpu_kernels

    U, D = rows.shape
    stored, adagrad = rows.view(torch.int16) if rows.dtype == torch.bfloat16 else rows, sums is not None
    if U:
        how = adagrad, rows.dtype == torch.bfloat16, 1 << (D - 1).bit_length()
        gpu_kernels.update[(U,)](stored, gradient, sums if adagrad else gradient, learning_rate, seed, D, *how)


def _update_by_torch(optimizer: str, rows: torch.Tensor, gradient: torch.Tensor, state: dict, learning_rate: float) -> None:
    # Each row has a step count, and so a bias correction, of its own.
    # Rows whose values of the whole row (step count, ...) are the same are one parameter; a row's first state is the optimiser's own.
    of_rows, of_values = ([name for name in state if state[name].dim() == dim] for dim in (1, 2))
    alike, group = torch.unique(torch.stack([state[name] for name in of_rows], dim=1), dim=0, return_inverse=True)
    order, sizes, alike = torch.argsort(group), torch.bincount(group), alike.cpu()
    parts = {name: values[order].split(sizes.tolist()) for name, values in {"": rows, "grad": gradient, **state}.items()}
    parameters = [torch.nn.Parameter(part) for part in parts[""]]
    trained = STOCK[optimizer](parameters, lr=learning_rate, foreach=False)
    for i, parameter in enumerate(parameters):
        parameter.grad = parts["grad"][i]
        if parts["step"][i][0] > 0:
            trained.state[parameter] = {name: parts[name][i] for name in of_values} | dict(zip(of_rows, alike[i], strict=True))
    trained.step()
    rows[order] = torch.cat([parameter.detach() for parameter in parameters])
    for name, values in state.items():
        new = [(parameter, trained.state[parameter][name].to(rows.device)) for parameter in parameters]
        values[order] = torch.cat([kept.expand(len(parameter), *values.shape[1:]) for parameter, kept in new])


def update(optimizer: str, rows: torch.Tensor, gradient: torch.Tensor, state: dict, learning_rate: float) -> None:
    """One step of the optimiser on rows float32 (U, D) with their summed gradients float32 (U, D) and state; in place."""
    if optimizer == "sgd":
        rows.sub_(gradient, alpha=learning_rate)
    elif optimizer == "rowwise_adagrad":  # one sum a row, as FBGEMM's EXACT_ROWWISE_ADAGRAD
        state["sums"] += gradient.square().mean(dim=1)
        rows.sub_(gradient * (learning_rate / state["sums"].sqrt()).unsqueeze(1))
    else:
        _update_by_torch(optimizer, rows, gradient, state, learning_rate)


def new_state(optimizer: str, N: int, D: int) -> dict[str, torch.Tensor]:
    """What an optimiser keeps of N rows of D values at the start: float32 (N,) or (N, D), by name; nothing for SGD."""
    if optimizer not in STOCK:
        return {"sums": torch.from_numpy(aligned_empty((N,), np.float32)).fill_(FIRST_SUM)} if optimizer == "rowwise_adagrad" else {}
    trial = torch.nn.Parameter(torch.ones(1, 2))
    trial.grad = torch.ones(1, 2)
    trained = STOCK[optimizer]([trial])
    trained.step()
    return {name: torch.zeros((N, D) if values.dim() > 1 else (N,)) for name, values in trained.state[trial].items()}
