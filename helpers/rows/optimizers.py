"""Optimisers of rows: each updates some rows in place from their summed gradients and, where it has one, a state value a row."""

import torch

FIRST_SUM = 1e-4  # row-wise Adagrad's sum of squares at the start: small, so that the first steps already have the full rate


def sgd(rows: torch.Tensor, gradient: torch.Tensor, sums: None, learning_rate: float) -> None:
    """rows -= learning_rate * gradient; rows, gradient: float32 (U, D)."""
    rows.sub_(gradient, alpha=learning_rate)


def rowwise_adagrad(rows: torch.Tensor, gradient: torch.Tensor, sums: torch.Tensor, learning_rate: float) -> None:
    """Adagrad with one sum a row: sums += mean_j g_j^2, rows -= learning_rate * g / sqrt(sums) (FBGEMM's EXACT_ROWWISE_ADAGRAD).

    rows, gradient: float32 (U, D); sums: float32 (U,), updated too.
    """
    sums += gradient.square().mean(dim=1)
    rows.sub_(gradient * (learning_rate / sums.sqrt()).unsqueeze(1))


def new_sums(optimizer: str, N: int) -> torch.Tensor | None:
    """The optimiser's state of N rows at the start: float32 (N,), or None where it has none."""
    return torch.full((N,), FIRST_SUM) if optimizer == "rowwise_adagrad" else None


UPDATES = {"sgd": sgd, "rowwise_adagrad": rowwise_adagrad}
