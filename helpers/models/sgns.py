"""Skip-gram with negative sampling (Mikolov et al. 2013, equation 4), and the plain model that every faster path must equal."""

import torch
from torch import nn
from torch.nn.functional import logsigmoid


def sgns_loss(target_rows: torch.Tensor, context_rows: torch.Tensor, negative_rows: torch.Tensor) -> torch.Tensor:
    """-log s(u.v) - sum_k log s(-u.v_k), summed over the pairs: a batch of one pair and one of thousands move a row alike.

    target_rows, context_rows: float (B, D); negative_rows: float (B, K, D); returns a scalar.
    """
    positive = (target_rows * context_rows).sum(dim=1)
    negative = torch.bmm(negative_rows, target_rows.unsqueeze(2)).squeeze(2)
    return -(logsigmoid(positive).sum() + logsigmoid(-negative).sum())


class PlainSGNS(nn.Module):
    """The judge: two dense `nn.Embedding` tables and autograd, nothing clever. target, context: float32 (N, D) to start from."""

    def __init__(self, target: torch.Tensor, context: torch.Tensor):
        super().__init__()
        self.target = nn.Embedding.from_pretrained(target.clone(), freeze=False)
        self.context = nn.Embedding.from_pretrained(context.clone(), freeze=False)

    def forward(self, targets: torch.Tensor, contexts: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        """The summed loss of pairs (targets int64 (B,), contexts int64 (B,)) with negatives int64 (B, K)."""
        return sgns_loss(self.target(targets), self.context(contexts), self.context(negatives))
