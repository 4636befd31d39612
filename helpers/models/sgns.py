"""Skip-gram with negative sampling (Mikolov et al. 2013, equation 4), and the plain model that every faster path must equal."""

import torch
from torch import nn
from torch.nn.functional import logsigmoid


def sgns_loss(target_rows: torch.Tensor, context_rows: torch.Tensor, negative_rows: torch.Tensor, weight: float = 1) -> torch.Tensor:
    """-log s(u.v) - weight * sum_k log s(-u.v_k), summed over the pairs: of rows float (B, D), (B, D) and (B, K, D), a scalar."""
    positive = (target_rows * context_rows).sum(dim=1)
    negative = torch.bmm(negative_rows, target_rows.unsqueeze(2)).squeeze(2)
    return -(logsigmoid(positive).sum() + weight * logsigmoid(-negative).sum())


def shared_gradients(targets, contexts, negatives, weight: float, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradient of `sgns_loss` by its rows, where each chunk of C pairs shares S negatives: three matrix products a chunk.

    targets, contexts: float (n, C, D), negatives: float (n, S, D); present: (n, C), 1, or 0 for what only fills a chunk up. With
    weight = K / S the loss is on average that of K negatives of each pair's own. Returns gradients of the three, in their types.
    """
    of_positive = (torch.sigmoid((targets * contexts).sum(dim=2, dtype=torch.float32)) - 1) * present
    of_positive = of_positive.to(targets.dtype).unsqueeze(2)
    of_negatives = torch.sigmoid(torch.bmm(targets, negatives.mT)) * (weight * present).to(targets.dtype).unsqueeze(2)
    of_targets = torch.baddbmm(of_positive * contexts, of_negatives, negatives)
    return of_targets, of_positive * targets, torch.bmm(of_negatives.mT, targets)


class PlainSGNS(nn.Module):
    """The judge: two dense `nn.Embedding` tables and autograd, nothing clever. tables: two float32 (N, D) to start from, or modules."""

    def __init__(self, *tables: torch.Tensor | nn.Module):
        super().__init__()
        made = (nn.Embedding.from_pretrained(table.clone(), freeze=False) if torch.is_tensor(table) else table for table in tables)
        self.target, self.context = made

    def forward(self, targets: torch.Tensor, contexts: torch.Tensor, negatives: torch.Tensor, weight: float = 1) -> torch.Tensor:
        """The summed loss of pairs (targets int64 (B,), contexts int64 (B,)) with negatives int64 (B, K)."""
        return sgns_loss(self.target(targets), self.context(contexts), self.context(negatives), weight)
