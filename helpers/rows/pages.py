"""A table in pages, each on one device or mirrored on several: LargeEmbedding's interface, for tables that no single device holds."""

import torch
from torch import nn

from helpers.errors import ConfigError


class PagedEmbedding(nn.Module):
    """An embedding n_words x dim_word in pages of page_size rows: word w is row w % page_size of page w // page_size.

    device_list: each page's device, a number or "cpu", or a tuple of them, with a mirror on each; None: page i is on device i mod
    num_devices. use_cuda: numbers are GPUs, None = where there are any; else each is memory of its own on the CPU. `embeddings[i].weight`
    is page i on the first of its devices, `.copies` on all. ConfigError: a list of another length, or a device that does not exist."""

    def __init__(self, n_words, dim_word, page_size, num_devices=None, use_cuda=None, device_list=None):
        super().__init__()
        gpus, pages = torch.cuda.device_count() if use_cuda in (None, True) else 0, -(-n_words // page_size)
        there = range(min(filter(None, (gpus, num_devices)), default=1 << 16))  # numbers that stand for memory cost nothing
        self.page_devices = [i % (num_devices or gpus or 1) for i in range(pages)] if device_list is None else list(device_list)
        if len(self.page_devices) != pages:
            found = f"{len(self.page_devices)} entries, but {n_words:,} words in pages of {page_size:,} are {pages} pages"
            raise ConfigError(f"device_list has {found}: give one device, or a tuple of devices, for each page.")
        self.n_words, self.dim_word, self.page_size, self.embeddings = n_words, dim_word, page_size, nn.ModuleList()
        for page, numbers in enumerate(self.page_devices):
            numbers = numbers if isinstance(numbers, (tuple, list)) else (numbers,)
            for number in numbers or (None,):
                if number != "cpu" and number not in there:
                    raise ConfigError(f"Page {page} is to be on device {number!r}, which does not exist: take 0 to {there[-1]}, or 'cpu'.")
            devices = {number: torch.device("cuda", number) if gpus and number != "cpu" else torch.device("cpu") for number in numbers}
            self.embeddings.append(_Page(min(page_size, n_words - page * page_size), dim_word, devices))

    def forward(self, indices: torch.Tensor, device: int | str | None = None) -> torch.Tensor:
        """Rows float32 (*shape, dim_word) of words int64, any shape, where these are; each page is read from the mirror nearest to there.

        device: the number to read nearest to instead. Raises IndexError for a word beyond the table."""
        words = indices.reshape(-1)
        if len(words) and not 0 <= int(words.min()) <= int(words.max()) < self.n_words:
            raise IndexError(f"Words from {int(words.min()):,} to {int(words.max()):,} were asked for, but there are {self.n_words:,}.")
        nearest = (words.device.index if words.is_cuda else "cpu") if device is None else device
        order = torch.argsort(words, stable=True)  # so that duplicates are summed in the order of one table
        counts = torch.bincount(words // self.page_size, minlength=len(self.embeddings)).tolist()
        pages = zip(self.embeddings, (words[order] % self.page_size).split(counts), strict=True)
        rows = torch.cat([page(here, nearest).to(words.device) for page, here in pages])  # all: momentum moves rows with no gradient, too
        return rows[torch.argsort(order)].view(*indices.shape, self.dim_word)


class _Page(nn.Embedding):
    # Rows on the first of some devices (torch's, by number), and mirrors on the others, which follow it

    def __init__(self, rows: int, columns: int, devices: dict):
        super().__init__(rows, columns, device=next(iter(devices.values())))
        self._mirrors = {number: self.weight.detach().to(device, copy=True) for number, device in list(devices.items())[1:]}
        self.stale, self._version = False, self.weight._version

    @property
    def copies(self) -> list[torch.Tensor]:
        if self.stale or self._version != self.weight._version:  # some optimisers change a weight without torch's counting it
            for mirror in self._mirrors.values():
                mirror.copy_(self.weight.detach())
            self.stale, self._version = self.weight.grad is not None, self.weight._version
        return [self.weight, *self._mirrors.values()]

    def forward(self, rows, number):
        return _Read.apply(self.weight, self, rows, [*self._mirrors].index(number) + 1 if number in self._mirrors else 0)


class _Read(torch.autograd.Function):
    # Rows of one of a page's copies; their gradient, summed over duplicates, is the page's, which then may change

    @staticmethod
    def forward(ctx, weight, page, rows, which):
        ctx.save_for_backward(rows)
        ctx.page, held = page, page.copies[which]
        return held[rows.to(held.device)]

    @staticmethod
    def backward(ctx, gradient):
        ctx.page.stale, weight = True, ctx.page.weight
        (rows,), gradient = ctx.saved_tensors, gradient.to(weight.device)
        return gradient.new_zeros(weight.shape).index_add_(0, rows.to(weight.device), gradient), None, None, None
