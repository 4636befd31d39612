"""Rows of papers from their titles, for those that nobody has cited: an LSTM over letters and words, trained by the loss of all others."""

# Bytes are read as words and words as the title, by one bidirectional LSTM each: a word that comes often in a batch is read once, and a
# title costs a dozen steps, not sixty. What an LSTM gives at each step is pooled by its largest values; two linear heads make the rows.

import itertools
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from helpers.artefacts import differences, new_file
from helpers.errors import ArtefactError, UserError, in_a_line
from helpers.models.sgns import sgns_loss
from helpers.pairs.blocks import PairSource
from helpers.pairs.noise import draw
from helpers.progress import progress

MOST_LETTERS = 500  # of a title: what comes after them is not read
WORD = re.compile(r"\w{1,24}")  # a longer one is read as several
TITLES = 101  # what random numbers are for, beside those of pairs/blocks.py
AT_A_TIME = 1024  # titles that are embedded together


class TitleEncoder(nn.Module):
    """A list of n texts in, (target rows, context rows) out, float32 (n, D) each; the weights it starts from depend on `seed` alone."""

    def __init__(self, dimensions: int, hidden: int = 128, dropout: float = 0.2, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.letters = nn.Embedding(256, 32)
            self.spelling = nn.LSTM(32, hidden, bidirectional=True)
            self.reading = nn.LSTM(2 * hidden, hidden, bidirectional=True)
            self.heads = nn.Linear(2 * hidden, 2 * dimensions)
        self.dropout = nn.Dropout(dropout)

    def forward(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Every text must have a letter or a digit."""
        device, of_texts = self.heads.weight.device, [WORD.findall(text[:MOST_LETTERS].lower()) for text in texts]
        place = {word: i for i, word in enumerate(dict.fromkeys(itertools.chain(*of_texts)))}
        spelt = [word.encode() for word in place]
        letters = torch.frombuffer(bytearray(b"".join(spelt)), dtype=torch.uint8).to(device)
        words = self._read(self.spelling, self.letters(letters.int()), [len(word) for word in spelt])
        places = torch.tensor([place[word] for words_of in of_texts for word in words_of], device=device)
        return self.heads(self._read(self.reading, words[places], [len(words_of) for words_of in of_texts])).chunk(2, dim=1)

    def _read(self, lstm: nn.LSTM, steps: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        # of sequences of these lengths, one behind the other in `steps`, the largest of each value that the LSTM gives
        packed = nn.utils.rnn.pack_sequence(self.dropout(steps).split(lengths), enforce_sorted=False)
        return self.dropout(nn.utils.rnn.pad_packed_sequence(lstm(packed)[0], padding_value=-torch.inf)[0].amax(dim=0))


def batch_loss(encoder: TitleEncoder, texts, targets, contexts, negatives, weight: float, known=None) -> torch.Tensor:
    """`sgns_loss` of pairs (targets, contexts int (B,)) and the negatives int (S,) that they share, each different title encoded once.

    known: trained (target, context) float (N, D): then only targets are encoded, and trained for both tables, against the rows known.
    """
    papers, places = np.unique(targets if known else np.concatenate([targets, contexts, negatives]), return_inverse=True)
    of_targets, of_contexts = encoder([texts[paper] for paper in papers.tolist()])
    if not known:
        first, then = len(targets), len(targets) + len(contexts)
        parts = of_contexts[places[first:then]], of_contexts[places[then:]]
        return sgns_loss(of_targets[places[:first]], *parts, weight)
    total = 0
    for own, table in ((of_targets, known[1]), (of_contexts, known[0])):
        rows = [torch.from_numpy(np.asarray(table[ids], np.float32)).to(own.device) for ids in (contexts, negatives)]
        total = total + sgns_loss(own[places], *rows, weight)
    return total / 2


def fit(
    encoder: TitleEncoder, texts: list[str | None], source: PairSource, noise: np.ndarray, *, epochs: int, batch_pairs: int = 4096,
    negatives: int = 5, shared_negatives: int = 512, learning_rate: float = 2e-3, known=None, path: Path | None = None,
    evaluate: Callable[[TitleEncoder], dict[str, float]] | None = None,
) -> list[dict]:  # fmt: skip
    """Train the encoder by Adam on the pairs of the papers that have a title; a log row (epoch, pairs, seconds, loss, ...) an epoch.

    texts: of the N papers; source, noise: as for any engine; known: see `batch_loss`; evaluate: gives more of a row; path: of a file that
    is written after each epoch and gone on from. What comes out depends on source.seed alone. ArtefactError: that file is of another run.
    """
    adam, log, device = torch.optim.Adam(encoder.parameters(), learning_rate), [], encoder.heads.weight.device
    facts = {"pairs": source.pairs, "seed": source.seed, "batch_pairs": batch_pairs, "learning_rate": learning_rate, "epochs": epochs}
    if path and Path(path).exists():
        try:
            kept = torch.load(path, device, weights_only=True)
            encoder.load_state_dict(kept["encoder"])
            adam.load_state_dict(kept["adam"])
        except Exception as error:
            raise ArtefactError(f"{path} is damaged, or of another encoder ({in_a_line(error)}): delete it to begin anew.") from error
        if differs := differences(kept["facts"], facts):
            raise ArtefactError(f"{path} was trained otherwise ({'; '.join(differs)}): delete it, or choose another.")
        log = kept["log"]
    titled, total = np.array([bool(WORD.search(text or "")) for text in texts]), epochs * source.pairs
    done = len(log) * source.pairs
    with torch.random.fork_rng(), progress(title="Titles", unit=" pairs", total=total, initial=done) as bar:
        for epoch in range(len(log), epochs):
            start, losses, trained = time.perf_counter(), 0.0, 0
            encoder.train()
            for block in range(source.blocks):
                generator = source.generator(epoch, block, TITLES)
                torch.manual_seed(int(generator.integers(1 << 62)))
                pairs = source.block(epoch, block)
                for first in range(0, len(pairs[0]), batch_pairs):
                    targets, contexts = (ids[first : first + batch_pairs] for ids in pairs)
                    noisy = draw(noise, shared_negatives, generator)
                    done += len(targets)
                    if not known:
                        noisy = noisy[titled[noisy]]
                    usable = titled[targets] & (titled[contexts] | bool(known))
                    targets, contexts = targets[usable], contexts[usable]
                    if len(targets) and len(noisy):
                        adam.param_groups[0]["lr"] = learning_rate * (1 - 0.9 * done / total)
                        loss = batch_loss(encoder, texts, targets, contexts, noisy, negatives / len(noisy), known)
                        adam.zero_grad()
                        (loss / len(targets)).backward()
                        adam.step()
                        losses, trained = losses + loss.item(), trained + len(targets)
                        bar.set_postfix(loss=f"{losses / trained:.3f}", refresh=False)
                    bar.update(done - bar.n)
            row = {"epoch": epoch + 1, "pairs": done, "seconds": time.perf_counter() - start, "loss": losses / max(trained, 1)}
            log.append(row | (evaluate(encoder) if evaluate else {}))
            if path:
                with new_file(path) as new:
                    torch.save({"encoder": encoder.state_dict(), "adam": adam.state_dict(), "log": log, "facts": facts}, new)
    return log


def embed(encoder: TitleEncoder, texts: list[str | None]) -> tuple[np.ndarray, np.ndarray]:
    """(target, context) rows, float32 (n, D) each, of titles; what else they are given with plays no part. UserError for an empty one."""
    for row, text in enumerate(texts):
        if not WORD.search(text or ""):
            raise UserError(f"Title {row + 1} of {len(texts):,} has no letter and no digit ({text!r}): leave it out, or give its words.")
        if len(text) > MOST_LETTERS:
            print(f"Title {row + 1} of {len(texts):,} has {len(text):,} characters: the first {MOST_LETTERS} are read.")
    encoder.eval()
    with torch.no_grad():
        parts = [[rows.cpu().numpy() for rows in encoder(texts[i : i + AT_A_TIME])] for i in range(0, len(texts), AT_A_TIME)]
    return tuple(np.concatenate(tables) for tables in zip(*parts, strict=True))
