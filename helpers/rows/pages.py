"""A table in pages, each on one device or mirrored on several: LargeEmbedding's interface, for tables that no single device holds."""

import torch
from torch import nn

from helpers.errors import ConfigError


class PagedEmbedding(nn.Module):
    """An embedding n_words x dim_word in pages of page_size rows: word w is row w % page_size of page w // page_size.

    device_list: of each page the number of its device ("cpu" is one, too), or a tuple of them, on each of which a mirror of it is kept;
    None: page i is on device i mod num_devices. use_cuda: numbers are GPUs, None = where there are any; else each is memory of its own on
    the CPU. `embeddings[i].weight` is page i on the first of its `page_devices[i]`, `embeddings[i].copies` it on all of them. Raises
    ConfigError for a list of another length, or a device that does not exist.
    """

    def __init__(self, n_words, dim_word, page_size, num_devices=None, use_cuda=None, device_list=None):
        super().__init__()
        on_gpus, there, pages = use_cuda in (None, True) and torch.cuda.is_available(), num_devices, -(-n_words // page_size)
        if on_gpus:
            there = torch.cuda.device_count() if num_devices is None else min(num_devices, torch.cuda.device_count())
        if device_list is None:
            device_list = [page % (num_devices or there or 1) for page in range(pages)]
        if len(device_list) != pages:
            found = f"{len(device_list)} entries, but {n_words:,} words in pages of {page_size:,} are {pages} pages"
            raise ConfigError(f"device_list has {found}: give one device, or a tuple of devices, for each page.")
        self.n_words, self.dim_word, self.page_size, self.page_devices = n_words, dim_word, page_size, list(device_list)
        self.embeddings = nn.ModuleList()
        for page, numbers in enumerate(self.page_devices):
            numbers = numbers if isinstance(numbers, (tuple, list)) else (numbers,)
            for number in numbers or (None,):
                if number != "cpu" and not (isinstance(number, int) and 0 <= number < (there or number + 1)):
                    of = f"there are {there} devices, from 0" if there else "devices are numbered from 0"
                    raise ConfigError(f"Page {page} is to be on device {number!r}, which does not exist: {of}.")
            devices = {number: torch.device("cuda", number) if on_gpus and number != "cpu" else torch.device("cpu") for number in numbers}
            self.embeddings.append(_Page(min(page_size, n_words - page * page_size), dim_word, devices))

    def forward(self, indices: torch.Tensor, device: int | str | None = None) -> torch.Tensor:
        """Rows float32 (*shape, dim_word) of words int64, any shape, where these are; each page is read from the mirror nearest to there.

        device: the number to read nearest to instead. Raises IndexError for a word beyond the table.
        """
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
    # Rows on the first of some devices (torch's, by number), and a mirror on each other one. A state dict holds them once.

    def __init__(self, rows: int, columns: int, devices: dict):
        numbers = list(devices)
        super().__init__(rows, columns, device=devices[numbers[0]])
        self.numbers = numbers
        for number in numbers[1:]:
            self.register_parameter(f"mirror_{number}", nn.Parameter(self.weight.detach().to(devices[number], copy=True)))

    @property
    def copies(self) -> list[nn.Parameter]:
        return [self.weight, *(getattr(self, f"mirror_{number}") for number in self.numbers[1:])]

    def forward(self, rows, number):
        return _Read.apply(rows, self.numbers.index(number) if number in self.numbers else 0, *self.copies)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for number in self.numbers[1:]:
            del destination[f"{prefix}mirror_{number}"]

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        for number in self.numbers[1:] if f"{prefix}weight" in state_dict else ():
            state_dict[f"{prefix}mirror_{number}"] = state_dict[f"{prefix}weight"]
        super()._load_from_state_dict(state_dict, prefix, *rest)


class _Read(torch.autograd.Function):
    # Rows of the nearest copy; their summed gradient goes to every copy, of which an optimiser then makes the same

    @staticmethod
    def forward(ctx, rows, nearest, *copies):
        ctx.save_for_backward(rows)
        ctx.shape, ctx.devices = copies[0].shape, [held.device for held in copies]
        return copies[nearest][rows.to(copies[nearest].device)]

    @staticmethod
    def backward(ctx, gradient):
        rows = ctx.saved_tensors[0].to(gradient.device)
        summed = gradient.new_zeros(ctx.shape).index_add_(0, rows, gradient)
        return None, None, *(summed.to(device, copy=True) for device in ctx.devices)
