"""Optimisers of rows: each updates some rows in place from their summed gradients, and what it keeps of each row."""

import numpy as np
import torch

from helpers.config import RATES
from helpers.rows.transfer import aligned_empty

FIRST_SUM = 1e-4  # row-wise Adagrad's sum of squares at the start: small, so that the first steps already have the full rate
# Those of torch.optim that look at each value by itself, by the names that they are set by.
STOCK = {name.lower(): kind for name, kind in vars(torch.optim).items() if name.lower() in RATES and isinstance(kind, type)}


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
    for name in of_values:
        state[name][order] = torch.cat([trained.state[parameter][name] for parameter in parameters])
    for name in of_rows:
        new = torch.tensor([float(trained.state[parameter][name]) for parameter in parameters], device=rows.device)
        state[name][order] = new.repeat_interleave(sizes)


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
