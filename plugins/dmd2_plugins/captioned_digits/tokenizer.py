"""A CLIP tokenizer for the captions: byte pairs, learned from their words."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dmd2_plugins.digits.captions import WORDINGS, caption

TOKENS = 77
"""Of a prompt, as CLIP's."""
START, END = "<|startoftext|>", "<|endoftext|>"


@cache
def tokenizer() -> Any:
    """A transformers.CLIPTokenizer. Other words than those of the captions are spelled in bytes."""
    from transformers import CLIPTokenizer

    vocabulary, merges = learned()
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
        special: Any = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
        return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS, **special)


def learned() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(token -> id, pairs in the order of their merging): every byte, and every word of the captions in one piece."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    texts = [caption(digit, wording) for digit in range(10) for wording in range(len(WORDINGS))]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    found = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = sorted({word for text in texts for word in text.split()})
    options: Any = {"initial_alphabet": alphabet, "end_of_word_suffix": "</w>", "show_progress": False}
    found.train_from_iterator(words, trainers.BpeTrainer(vocab_size=1000, **options))
    model = json.loads(found.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    for token in (*(letter + "</w>" for letter in alphabet), START, END):
        vocabulary.setdefault(token, len(vocabulary))
    return vocabulary, [tuple(pair) for pair in model["merges"]]
