"""Texts that say the same in nearly the same words: exact, and in nearly linear time on ordinary banks."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"\w+")
SHINGLE = 3  # words


def near_duplicates(texts: Sequence[str], similarity: float = 0.8) -> list[tuple[int, int]]:
    """(later, earlier) for every text that repeats an earlier one which itself repeats none.

    Two texts are alike when the Jaccard index |A ∩ B| / |A ∪ B| of their sets of three consecutive words reaches
    `similarity`, case, punctuation and compatibility forms folded. Dropping every `later` leaves no two alike.

    Why it is fast: sets that alike share at least one of the |A| − ⌈similarity · |A|⌉ + 1 rarest shingles of each
    (prefix filter), so only texts that share a rare shingle are compared, and nothing is missed. Texts that nearly all
    share most of their words and yet are not alike would still take a time that grows with their number squared.
    """
    sets = [_shingles(text) for text in texts]
    frequency = Counter(shingle for shingles in sets for shingle in shingles)
    holders: dict[tuple[str, ...], list[int]] = {}  # rare shingle → the texts that repeat none and hold it, in order
    found = []
    for later, shingles in enumerate(sets):
        size = len(shingles)
        if not size:
            continue
        rarest = sorted(shingles, key=lambda shingle: (frequency[shingle], shingle))
        prefix = rarest[: size - math.ceil(similarity * size - 1e-9) + 1]
        candidates = {i for shingle in prefix for i in holders.get(shingle, ())}
        earlier = next((i for i in sorted(candidates) if _alike(shingles, sets[i], similarity)), None)
        if earlier is not None:
            found.append((later, earlier))
            continue
        for shingle in prefix:
            holders.setdefault(shingle, []).append(later)
    return found


def _shingles(text: str) -> frozenset[tuple[str, ...]]:
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    if len(words) < SHINGLE:
        return frozenset({tuple(words)} if words else ())
    return frozenset(zip(words, words[1:], words[2:]))


def _alike(left: frozenset[tuple[str, ...]], right: frozenset[tuple[str, ...]], similarity: float) -> bool:
    if min(len(left), len(right)) < similarity * max(len(left), len(right)):
        return False
    both = len(left & right)
    return both >= similarity * (len(left) + len(right) - both)
