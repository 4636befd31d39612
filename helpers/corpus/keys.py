"""Ids as 64-bit keys, and the table that numbers them: citations are two integers each, whatever a dump calls its papers."""

# An id that is a number of up to 15 digits, perhaps behind one letter (PMIDs, corpus ids, OpenAlex's W123), is its own key and can be
# read back from it. Of any other id (40 hexadecimal digits, names) the key is a hash with the highest bit set; a second, independent
# 32-bit hash, the check, tells when two different ids share a key.

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from helpers.corpus.records import SPACE
from helpers.prefetch import prefetch

NONE = np.uint64(2**64 - 1)  # no id; an empty slot
HASHED = np.uint64(1 << 63)
LETTER = 56  # bit at which the letter of a key begins
AHEAD = 24  # keys prefetched ahead
FULLEST = 0.6  # share of the table's slots in use before it grows


@numba.njit(cache=True, nogil=True)
def _mixed(h):
    # A finaliser of 64 bits (MurmurHash3's, Appleby 2011)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(33))


@numba.njit(cache=True, nogil=True)
def _keys(offsets, text, keys, checks):
    # Change keys, of NONE, and checks, of 0, as the ids say
    one, eight = np.uint64(1), np.uint64(8)  # signed places might be negative: each access would test that
    for i in range(len(keys)):
        first, last = np.uint64(offsets[i]), np.uint64(offsets[i + 1])
        while first < last and text[first] <= SPACE:
            first += one
        while first < last and text[last - one] <= SPACE:
            last -= one
        if first == last:
            continue
        letter, digits, number = np.uint64(0), first, np.uint64(0)
        if last - first > one and (65 <= text[first] <= 90 or 97 <= text[first] <= 122):
            letter, digits = np.uint64(text[first]), first + one
        plain = last - digits <= 15 and (text[digits] != 48 or last - digits == one)
        for p in range(digits, last if plain else digits):
            plain = plain and 48 <= text[p] <= 57
            number = number * np.uint64(10) + np.uint64(text[p] - 48)
        if plain:
            keys[i] = letter << np.uint64(LETTER) | number
            continue
        h, check = np.uint64(last - first), np.uint64(0x9E3779B97F4A7C15)
        for p in range(first, last, eight):
            word = np.uint64(0)
            if last - p >= eight:
                for q in range(eight):  # of a known length: compiled to one load
                    word = word << eight | np.uint64(text[p + q])
            else:
                for q in range(p, last):
                    word = word << eight | np.uint64(text[q])
            h = _mixed(h ^ word)
            check = (check ^ word) * np.uint64(0x2545F4914F6CDD1D)
            check ^= check >> np.uint64(29)
        keys[i] = min(h | HASHED, NONE - np.uint64(1))
        checks[i] = np.uint32(check >> np.uint64(32))


def keys_of(ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(keys uint64 (n,), NONE for no id, checks uint32 (n,), 0 for a number) of ids, strings; spaces and NULs around them are no part."""
    keys, checks = np.full(len(ids), NONE), np.zeros(len(ids), np.uint32)
    if len(ids):
        ids = ids.fill_null("")
        offsets = np.frombuffer(ids.buffers()[1], np.int32)[ids.offset : ids.offset + len(ids) + 1]
        _keys(offsets, np.frombuffer(ids.buffers()[2] or b"\0", np.uint8), keys, checks)
    return keys, checks


def ids_of(keys: np.ndarray) -> pa.Array:
    """The ids of keys uint64 (n,) that are numbers, perhaps behind a letter; null for hashed ones."""
    letters = pa.array([""] * 65 + [chr(letter) for letter in range(65, 128)] + [None] * 128)  # by the key's highest byte
    numbers = pa.array(keys & np.uint64((1 << LETTER) - 1)).cast(pa.string())
    return pc.binary_join_element_wise(letters.take(pa.array(keys >> np.uint64(LETTER))), numbers, "")


@numba.njit(cache=True, nogil=True)
def _find(slots, numbers, keys, found, count, add):
    # found[i], of -1, = the number of keys[i], unless it is NONE; an unknown key gets the next number where `add`; returns the count
    mask = np.uint64(len(slots) - 1)
    slot_base, number_base = slots.ctypes.data, numbers.ctypes.data
    for i in range(len(keys)):
        if i + AHEAD < len(keys):
            ahead = np.int64(_mixed(keys[i + AHEAD]) & mask)
            prefetch(slot_base + 8 * ahead)
            prefetch(number_base + 4 * ahead)
        key, slot = keys[i], _mixed(keys[i]) & mask
        while slots[slot] != NONE and slots[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        if add and slots[slot] != key:
            slots[slot], numbers[slot] = key, count
            count += 1
        if slots[slot] == key != NONE:
            found[i] = numbers[slot]
    return count


class KeyTable:
    """Numbers keys 0, 1, ... in order of appearance: a hash table with open addressing, 12 bytes a slot, at most FULLEST of them used."""

    def __init__(self, expected: int = 0):
        size = 1 << int(max(expected, 600) / FULLEST).bit_length()
        self.count, self._slots, self._numbers = 0, np.full(size, NONE), np.empty(size, np.int32)

    def find(self, keys: np.ndarray, add: bool = False) -> np.ndarray:
        """The numbers int32 (n,) of keys uint64 (n,), new ones given to unknown keys where `add`, else -1; -1 for NONE."""
        if add and self.count + len(keys) > FULLEST * len(self._slots):
            larger = KeyTable(self.count + len(keys))
            larger.find(self.keys(), add=True)
            self._slots, self._numbers = larger._slots, larger._numbers
        found = np.full(len(keys), -1, np.int32)
        self.count = _find(self._slots, self._numbers, keys, found, self.count, add)
        return found

    def keys(self) -> np.ndarray:
        """The keys by number, uint64 (count,)."""
        used, keys = self._slots != NONE, np.empty(self.count, np.uint64)
        keys[self._numbers[used]] = self._slots[used]
        return keys
