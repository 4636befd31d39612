"""Tables of N x D values kept in a pool of M floats (HashedNets, Chen et al. 2015), and pairs factorised with them or with full tables.

Value d of row i is pool[place], or minus it where bit 31 of x is set: x = (i D + d + salt 0x9E3779B97F4A7C15) 0xBF58476D1CE4E5B9;
x ^= x >> 32; x *= 0x94D049BB133111EB; place = (x >> 32) M >> 32, in unsigned 64 bits. Only the pool is stored."""

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from helpers.errors import ConfigError, UserError
from helpers.pairs import noise

# those of SplitMix64 (Steele et al. 2014), as int64: torch multiplies no unsigned ones, but keeps the same 64 bits
SALT, FIRST, SECOND = (x - (1 << 64) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class CompressedEmbedding(nn.Module):
    """N rows of D values out of a pool of M floats, drawn normally; used as `nn.Embedding`, by any optimiser; salts make tables differ."""

    def __init__(self, N: int, D: int, M: int, salt: int = 0, scale: float = 1.0):
        super().__init__()
        most = min(N * D, 2**31 - 1)  # places are made in 63 bits
        if not 2 <= M <= most:
            raise ConfigError(f"A pool of {M:,} floats cannot hold {N:,} x {D} values: take from 2 to {most:,} floats.")
        self.num_embeddings, self.embedding_dim, self.salt, self.pool = N, D, salt, nn.Parameter(torch.randn(M) * scale)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The rows of `ids`, int64 of any shape, as float32 (*shape, D). UserError: an id that no row has."""
        for id in torch.aminmax(ids) if ids.numel() else ():
            if not 0 <= id < self.num_embeddings:
                raise UserError(f"Row {int(id):,} does not exist: this table has rows 0 to {self.num_embeddings - 1:,}.")
        places, signs = self.places(ids)
        return self.pool.index_select(0, places.flatten()).view_as(signs) * signs

    def places(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where in the pool the values of rows `ids` (int64) are, int64 (*shape, D), and their signs, float32 (*shape, D)."""
        salted, columns = torch.tensor(self.salt) * SALT, torch.arange(self.embedding_dim, device=ids.device)
        x = (ids * self.embedding_dim + salted)[..., None] + columns  # all else in place: new memory costs more than the arithmetic
        x *= FIRST
        x ^= (x >> 32).bitwise_and_(0xFFFFFFFF)
        x *= SECOND
        signs = torch.ones((), device=x.device).copysign(x << 32)
        return x.bitwise_right_shift_(32).bitwise_and_(0xFFFFFFFF).mul_(len(self.pool)).bitwise_right_shift_(32), signs


def pair_entries(indptr: np.ndarray, contexts: np.ndarray, shift: float = 1, logs: bool = False, most: float = 100) -> list[torch.Tensor]:
    """The entries above 0 of log (n P / (n_t n_c shift)), SPPMI (Levy and Goldberg 2014), or of log (1 + n), by pairs n as CSR by target.

    indptr: int64 (N+1,), contexts: int32 (P,). Returns targets, contexts int64 (E,), values and their weights float32 (E,): GloVe's,
    min(n / most, 1) ** 0.75, over their mean. ConfigError: no entry is above 0."""
    N, P = len(indptr) - 1, len(contexts)
    targets, contexts, n = sp.find(sp.csr_matrix((np.ones(P), contexts, indptr), shape=(N, N)))
    of_target, of_context = (np.bincount(of, n, minlength=N)[of] for of in (targets, contexts))
    values = np.log1p(n) if logs else np.log(n * P / (of_target * of_context * shift))
    if not (kept := values > 0).any():
        raise ConfigError(f"The PMI matrix of {P:,} pairs, shifted by log {shift:g}, is empty: take more pairs or a smaller shift.")
    weights = np.minimum(n / most, 1) ** 0.75
    ids = [torch.tensor(of[kept], dtype=torch.int64) for of in (targets, contexts)]
    return ids + [torch.tensor(of[kept], dtype=torch.float32) for of in (values, weights / weights[kept].mean())]


class Factors(nn.Module):
    """Scores of pairs, u_t . v_c, by two tables of any kind (`nn.Embedding`, `CompressedEmbedding`), or by one that is given twice.

    dropout: share of a row's values left out in training; biases: what GloVe's two of a pair are together at the start, None = none."""

    def __init__(self, target: nn.Module, context: nn.Module, dropout: float = 0.0, biases: float | None = None):
        super().__init__()
        self.target, self.context, self.dropout = target, context, nn.Dropout(dropout)
        start = torch.full((1 if context is target else 2, target.num_embeddings, 1), (biases or 0) / 2)
        self.biases = nn.ModuleList(nn.Embedding.from_pretrained(values, freeze=biases is None) for values in start)

    def forward(self, targets: torch.Tensor, contexts: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The scores of pairs (int64 (B,) each), float32 (B,), and of every target with each of the others (int64 (S,)), float32 (B, S)."""
        B, all_contexts = len(targets), torch.cat([contexts, others])
        u, v = self.dropout(self.target(targets)), self.dropout(self.context(all_contexts))
        own, their = self.biases[0](targets), self.biases[-1](all_contexts)
        return (u * v[:B]).sum(dim=1) + (own + their[:B])[:, 0], u @ v[B:].T + own + their[B:].T


def fit(model, entries, noise_table, optimizer, loss="sgns", epochs=1, batch=4096, others=128, negatives=5, seed=0) -> list[float]:
    """Train `Factors` on the entries of `pair_entries` by a torch optimiser whose rate falls to a tenth; the loss a pair of each epoch.

    loss: sgns; or square, of the values by their weights, and of 0 for the others. `others` papers a batch, drawn from the alias table,
    are every pair's negatives, or its zeros, and weigh negatives / others each."""
    generator, losses, P = np.random.default_rng(seed), np.zeros(epochs), len(entries[0])
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, epochs * -(-P // batch))
    for epoch in range(epochs):
        for part in torch.from_numpy(generator.permutation(P)).split(batch):
            targets, contexts, values, weights = (of[part] for of in entries)
            scores, of_others = model(targets, contexts, torch.from_numpy(noise.draw(noise_table, others, generator)))
            known, unknown = nn.functional.softplus(-scores), nn.functional.softplus(of_others)  # softplus(-x) is -log s(x)
            if loss == "square":
                known, unknown = weights * (scores - values).square(), of_others.square()
            optimizer.zero_grad()
            (summed := known.sum() + negatives / others * unknown.sum()).backward()
            optimizer.step()
            decay.step()
            losses[epoch] += summed.item() / P
    return losses.tolist()
