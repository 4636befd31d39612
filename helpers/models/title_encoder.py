"""Rows of papers from their titles alone: an LSTM over letters and words, trained by the loss and the noise of all other engines."""

# One bidirectional LSTM reads the bytes of words, another the words of the title: a word is spelt once a batch, however often it comes, and
# a title takes a dozen steps, not sixty. What goes into an LSTM is averaged over the steps beside what comes out, and each word has a row
# of its own besides (by its hash, shared where two have the same): without these two, many more epochs are needed.

import re
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from helpers.artefacts import differences, new_file
from helpers.errors import ArtefactError, UserError, in_a_line
from helpers.models.sgns import sgns_loss
from helpers.pairs.noise import draw
from helpers.progress import progress

MOST_LETTERS, WORD = 500, re.compile(r"\w{1,24}")  # what is read of a text; what is left of a longer word is another one
TITLES = 101  # what random numbers are for, beside those of pairs/blocks.py
SHARED_NEGATIVES, AT_A_TIME = 128, 1024  # negatives of a batch of pairs; texts that are embedded together
PULL = 10  # nats a pair, for a row at right angles to the trained one: learning from citations alone takes many more epochs


class TitleEncoder(nn.Module):
    """Rows of D `dimensions` from texts; hidden: values of an LSTM in each direction; word_rows: of words, 1: letters alone tell them."""

    def __init__(self, dimensions: int, hidden: int = 64, dropout: float = 0.2, word_rows: int = 1 << 15):
        super().__init__()
        self.letters, self.dropout = nn.Embedding(256, 32), nn.Dropout(dropout)
        self.spelling = nn.LSTM(32, hidden, bidirectional=True)
        self.reading = nn.LSTM(32 + 2 * hidden, hidden, bidirectional=True)
        self.words = nn.Embedding(word_rows, 32 + 2 * hidden)
        nn.init.normal_(self.words.weight, std=0.1)
        self.heads = nn.Linear(32 + 4 * hidden, 2 * dimensions)

    def forward(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """(target, context) rows, float32 (n, D) each, of texts that `check_titles` lets pass."""
        device, of_texts = self.heads.weight.device, [WORD.findall(text[:MOST_LETTERS].lower()) for text in texts]
        number = {word: i for i, word in enumerate({word: None for words in of_texts for word in words})}
        spelt = [word.encode() for word in number]
        letters = torch.frombuffer(bytearray(b"".join(spelt)), dtype=torch.uint8).to(device)
        rows = self._read(self.spelling, self.letters(letters.int()), [len(word) for word in spelt])
        rows = rows + self.words(torch.tensor([zlib.crc32(word) % len(self.words.weight) for word in spelt], device=device))
        places = torch.tensor([number[word] for words in of_texts for word in words], device=device)
        return self.heads(self._read(self.reading, rows[places], [len(words) for words in of_texts])).chunk(2, dim=1)

    def _read(self, lstm: nn.LSTM, steps: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        # The means of sequences of these lengths, one behind the other in `steps`, and of what the LSTM makes of them
        places = nn.utils.rnn.pack_sequence(torch.arange(len(steps), device=steps.device).split(lengths), enforce_sorted=False)
        taken = nn.utils.rnn.PackedSequence(self.dropout(steps)[places.data], *places[1:])
        both = nn.utils.rnn.PackedSequence(torch.cat([taken.data, lstm(taken)[0].data], dim=1), *places[1:])
        return nn.utils.rnn.pad_packed_sequence(both)[0].sum(dim=0) / torch.tensor(lengths, device=steps.device)[:, None]


def check_titles(texts: list[str | None]) -> None:
    """Raise UserError where there is nothing to read, and tell of texts that are cut."""
    if empty := [row for row, text in enumerate(texts, 1) if not WORD.search((text or "")[:MOST_LETTERS])]:
        raise UserError(f"Title {empty[0]:,} of {len(texts):,} has no letter and no digit to read: leave it out, or write it.")
    if long := [row for row, text in enumerate(texts, 1) if len(text) > MOST_LETTERS]:
        print(f"{len(long):,} titles, the first of them title {long[0]:,}, have more than {MOST_LETTERS} characters: the rest is not read.")


def batch_loss(encoder, texts, targets, contexts, negatives, weight: float, known=None) -> tuple:
    """`sgns_loss` of pairs (targets, contexts int (B,)) with negatives int (S,) for all of them, each text read once; and the pull."""
    papers, places = np.unique(targets if known else np.concatenate([targets, contexts, negatives]), return_inverse=True)
    rows = encoder([texts[paper] for paper in papers.tolist()])
    if not known:
        of, to, noisy = np.split(places, [len(targets), 2 * len(targets)])
        return sgns_loss(rows[0][of], rows[1][to], rows[1][noisy], weight), 0
    loss, pull = 0, 0
    for own, of_papers, to in ((rows[0], *known), (rows[1], *known[::-1])):
        looked_up = ((of_papers, papers), (to, contexts), (to, negatives))
        trained, positive, noisy = (torch.from_numpy(np.asarray(table[ids], np.float32)).to(own.device) for table, ids in looked_up)
        mean = trained.mean(dim=0)  # what all rows share tells nothing
        loss = loss + sgns_loss(own[places], positive, noisy, weight) / 2
        pull = pull + PULL * len(targets) * (1 - torch.nn.functional.cosine_similarity(own - mean, trained - mean)).mean() / 2
    return loss, pull


def fit(encoder, texts, source, noise, *, epochs, batch_pairs=2048, negatives=5, learning_rate=6e-3, known=None, evaluate=None, path=None):
    """Train by Adam on a PairSource and its noise, as the engines do; returns a log row (epoch, pairs, loss) an epoch, list[dict]."""
    # texts: str of all N papers. known: trained (target, context) float (N, D): then targets alone are read, held against known rows in
    # both directions and pulled towards their own (PULL, which is not part of the loss that is logged), and papers may be without a text.
    # evaluate(encoder): gives more of a log row. path: of a file that is written after each epoch, and gone on from; ArtefactError where
    # it is of another training. The same weights at the start and the same source.seed: the same weights.
    if not known:
        check_titles(texts)
    adam, device, log = torch.optim.Adam(encoder.parameters()), encoder.heads.weight.device, []
    facts = {"pairs": source.pairs, "seed": source.seed, "epochs": epochs, "values": sum(each.numel() for each in encoder.parameters())}
    if path and Path(path).exists():
        try:
            kept = torch.load(path, device, weights_only=True)
        except Exception as error:  # damage shows as any of several exceptions
            raise ArtefactError(f"{path} is damaged ({in_a_line(error)}): delete it to train anew.") from error
        if differs := differences(kept["facts"], facts):
            raise ArtefactError(f"{path} is of another training ({'; '.join(differs)}): delete it, or choose another path.")
        encoder.load_state_dict(kept["encoder"])
        adam.load_state_dict(kept["adam"])
        log = kept["log"]
    titled, total = np.array([bool(WORD.search((text or "")[:MOST_LETTERS])) for text in texts]), epochs * source.pairs
    with torch.random.fork_rng(), progress(title="Titles", unit=" pairs", total=total, initial=log[-1]["pairs"] if log else 0) as bar:
        for epoch in range(len(log), epochs):
            losses = []
            encoder.train()
            for block in range(source.blocks):
                generator = source.generator(epoch, block, TITLES)
                torch.manual_seed(int(generator.integers(1 << 62)))
                targets, contexts = source.block(epoch, block)
                for first in range(0, len(targets), batch_pairs):
                    batch = first + np.flatnonzero(titled[targets[first : first + batch_pairs]])
                    if len(batch):
                        noisy = targets[batch], contexts[batch], draw(noise, SHARED_NEGATIVES, generator)
                        loss, pull = batch_loss(encoder, texts, *noisy, negatives / SHARED_NEGATIVES, known)
                        adam.zero_grad()
                        ((loss + pull) / len(batch)).backward()
                        adam.param_groups[0]["lr"] = learning_rate * (1 - 0.9 * bar.n / total)
                        adam.step()
                        losses.append(loss.item() / len(batch))
                        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
                    bar.update(min(batch_pairs, len(targets) - first))
            if not losses:
                raise UserError(f"There is nothing to train on: of {len(texts):,} papers none with a citation has a title.")
            figures = {"pairs": bar.n, "loss": np.mean(losses), **(evaluate(encoder) if evaluate else {})}
            log.append({"epoch": epoch + 1} | {name: float(value) for name, value in figures.items()})
            if path:
                with new_file(path) as new:
                    torch.save({"encoder": encoder.state_dict(), "adam": adam.state_dict(), "log": log, "facts": facts}, new)
    return log


def embed(encoder: TitleEncoder, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(target, context) rows of texts, float32 (n, D) each; UserError for one that is empty."""
    check_titles(texts)
    encoder.eval()
    with torch.no_grad():
        parts = [[rows.cpu().numpy() for rows in encoder(texts[i : i + AT_A_TIME])] for i in range(0, len(texts), AT_A_TIME)]
    return tuple(np.concatenate(tables) for tables in zip(*parts, strict=True))
