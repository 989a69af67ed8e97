"""A CLIP tokenizer for the captions: byte pairs, learned from their words."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dmd2_plugins.digits.captions import WORDINGS, WORDS

TOKENS = 77
"""Of a prompt, as CLIP's."""
START, END, LAST = "<|startoftext|>", "<|endoftext|>", "</w>"
"""Around a text, and behind the last piece of a word."""


@cache
def tokenizer() -> Any:
    """A transformers.CLIPTokenizer: a word of the captions is one token, others are spelled in pieces and bytes."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    merges, letters = learned(), sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + LAST for letter in letters), *("".join(pair) for pair in merges), START, END]
    with TemporaryDirectory() as name:
        folder = Path(name)
        vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
        (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
        (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
        special: dict[str, Any] = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
        return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS, **special)


def learned() -> list[tuple[str, str]]:
    """Pairs of pieces in the order in which they are joined, the most frequent first (Sennrich et al. 2016, Alg. 1).

    Of equally frequent ones the first of the alphabet, so that a text has the same tokens in every process.
    """
    known = sorted({word for wording in WORDINGS for word in wording.format("").split()} | set(WORDS))
    words, merges = [[*word[:-1], word[-1] + LAST] for word in known], list[tuple[str, str]]()
    while pairs := Counter(pair for pieces in words for pair in pairwise(pieces)):
        merges.append(min(pairs, key=lambda pair: (-pairs[pair], pair)))
        words = [joined(pieces, merges[-1]) for pieces in words]
    return merges


def joined(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """The pieces of a word with every occurrence of a pair made one."""
    found = list[str]()
    for piece in pieces:
        if found and (found[-1], piece) == pair:
            found[-1] += piece
        else:
            found.append(piece)
    return found
