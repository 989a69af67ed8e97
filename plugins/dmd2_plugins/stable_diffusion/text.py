"""Text encoders of the families: what each one reads of a prompt, as the pipelines of diffusers encode it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from dmd2cli.core.transfer import onto

SAID = 5
"""Of how many prompts that are too long it is said what was cut."""


class Parts(Protocol):
    """A model on disk, by the names of diffusers' folders."""

    def has(self, part: str) -> bool:
        """Whether there is one."""

    def load(self, part: str) -> Any:
        """A text encoder or tokenizer. Raises UserError if it cannot be read."""


class Text(nn.Module):
    """Prompts -> conditions by name, one row each; prompts that are too long are cut, and the first of them told."""

    slots: ClassVar[tuple[str, ...]] = ("",)
    """What follows text_encoder and tokenizer in the names of the parts."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Those of them that a pipeline may lack."""

    def __init__(self, parts: Parts, length: int, width: int) -> None:
        """length: tokens of a prompt that T5 reads; CLIP reads its own number. width: of what T5 gives."""
        super().__init__()
        self.length, self.width, self.said = length, width, set[str]()
        slots = [slot for slot in self.slots if parts.has(f"text_encoder{slot}")]
        self.encoders: Any = nn.ModuleList(parts.load(f"text_encoder{slot}") for slot in slots)
        self.tokenizers: list[Any] = [parts.load(f"tokenizer{slot}") for slot in slots]

    def tokens(self, i: int, prompts: Sequence[str], length: int | None = None) -> Mapping[str, Tensor]:
        """What encoder i reads: input_ids and attention_mask (b, length)."""
        tokenizer, place = self.tokenizers[i], next(self.encoders[i].parameters()).device
        longest = length or self.encoders[i].config.max_position_embeddings
        found = tokenizer(list(prompts), padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
        self.tell(tokenizer, prompts, longest)
        return {name: onto(value, place) for name, value in found.items()}

    def tell(self, tokenizer: Any, prompts: Sequence[str], longest: int) -> None:
        """Say what was left out of prompts, each once and not of many."""
        for prompt, ids in zip(prompts, tokenizer(list(prompts), verbose=False)["input_ids"], strict=True):
            if len(ids) <= longest or prompt in self.said or len(self.said) >= SAID:
                continue
            self.said.add(prompt)
            rest = tokenizer.decode(ids[longest - 1 : -1]).strip()
            more = "; others are cut without a word" if len(self.said) == SAID else ""
            print(f"prompt cut to the {longest} tokens that fit; left out: {rest!r}{more}", file=sys.stderr)

    def clip(self, i: int, prompts: Sequence[str]) -> Any:
        """The output of a CLIP encoder with all hidden states."""
        return self.encoders[i](self.tokens(i, prompts)["input_ids"], output_hidden_states=True)

    def t5(self, i: int, prompts: Sequence[str]) -> Tensor:
        """The output of a T5 encoder that sees its padding (b, length, d)."""
        return self.encoders[i](self.tokens(i, prompts, self.length)["input_ids"])[0]


class Clip(Text):
    """Stable Diffusion 1 and 2: the last hidden state."""

    def forward(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"text": self.clip(0, prompts).last_hidden_state}


class ClipPair(Text):
    """SDXL: penultimate hidden states of two encoders side by side, and the projected output of the second."""

    slots = ("", "_2")

    def forward(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        one, two = (self.clip(i, prompts) for i in (0, 1))
        return {"text": torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1), "pooled": two.text_embeds}


class ClipPairT5(Text):
    """SD3: SDXL's text, padded to T5's width and followed by it; zeros in T5's place if it is not there."""

    slots = ("", "_2", "_3")
    optional = ("_3",)

    def forward(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        one, two = (self.clip(i, prompts) for i in (0, 1))
        text = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1)
        last = self.t5(2, prompts) if len(self.encoders) > 2 else text.new_zeros(len(text), self.length, self.width)
        text = nn.functional.pad(text, (0, last.shape[-1] - text.shape[-1]))
        return {"text": torch.cat([text, last], 1), "pooled": torch.cat([one.text_embeds, two.text_embeds], -1)}


class MaskedT5(Text):
    """PixArt: T5 of the prompt in lower case, and which of its tokens are no padding."""

    def forward(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        found = self.tokens(0, [prompt.lower().strip() for prompt in prompts], self.length)
        return {"text": self.encoders[0](**found)[0], "mask": found["attention_mask"].float()}


class ClipAndT5(Text):
    """FLUX: T5, and the pooled output of CLIP."""

    slots = ("", "_2")

    def forward(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"text": self.t5(1, prompts), "pooled": self.clip(0, prompts).pooler_output}
