"""What a rater sees next: order and sides are functions of (study, rater, pair), so that any restart goes on as before.

Nothing of it is stored. One hash of the three decides a pair's place among a rater's pairs and which arm is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b

from dmd2cli.study.set import Pair, Study

Answers = Mapping[tuple[int, str], str]
"""(pair, question) -> side, of one rater."""


def mark(study: str, rater: str, pair: int) -> bytes:
    """Eight bytes, as good as random."""
    return blake2b(f"{study}\0{rater}\0{pair}".encode(), digest_size=8).digest()


@lru_cache(maxsize=256)
def order(study: str, rater: str, pairs: int) -> list[int]:
    """The pairs as one rater sees them."""
    return sorted(range(pairs), key=lambda pair: mark(study, rater, pair))


def swapped(study: str, rater: str, pair: int) -> bool:
    """Whether the second arm is on the left."""
    return bool(mark(study, rater, pair)[-1] & 1)


def sides(study: Study, rater: str, pair: Pair) -> tuple[int, int]:
    """The arms on the left and on the right."""
    return (pair.second, pair.first) if swapped(study.id, rater, pair.number) else (pair.first, pair.second)


def waiting(study: Study, rater: str, given: Answers) -> list[int]:
    """Up to two pairs with a question that a rater has not answered: the one to show, and the one after it."""
    found = []
    for pair in order(study.id, rater, study.pairs):
        if any((pair, question) not in given for question in study.questions):
            found.append(pair)
            if len(found) == 2:
                break
    return found
