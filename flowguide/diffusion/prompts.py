"""Prompts to embeddings, computed once per text."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from .prompt_text import weighted

log = logging.getLogger("flowguide.diffusion")

LONGEST_CHUNKS = 16
"""A prompt may fill this many windows of the text encoder, 1200 CLIP tokens."""


@dataclass(frozen=True)
class Embedding:
    """A prompt as the UNet sees it."""

    text: Tensor
    """[1, chunks·window, width]"""
    pooled: Tensor | None
    """[1, width] of SDXL's second encoder."""

    def mixed(self, other: Embedding, share: float) -> Embedding:
        """(1 − share)·self + share·other; self at 0."""
        if share == 0.0:
            return self
        pooled = None if self.pooled is None or other.pooled is None else self.pooled.lerp(other.pooled, share)
        return Embedding(self.text.lerp(other.text, share), pooled)

    def zeros(self) -> Embedding:
        """What SDXL takes for no prompt at all."""
        return Embedding(torch.zeros_like(self.text), None if self.pooled is None else torch.zeros_like(self.pooled))


class PromptEncoder:
    """One or two CLIP text encoders with their tokenizers; embeddings are kept per text.

    A prompt longer than the encoder's window is cut into chunks that are encoded apart and laid side by side. Bracket
    weights (`prompt_text`) scale the tokens' embeddings, and the mean is restored, as A1111 does it.
    """

    def __init__(self, tokenizers: Sequence[Any], text_encoders: Sequence[Any], device: torch.device):
        """device: where the embeddings go, wherever the encoders are."""
        self._encoders = tuple(zip(tokenizers, text_encoders, strict=True))
        self._device = device
        self._known: dict[tuple[str, int], Embedding] = {}

    def __call__(self, text: str, chunks: int = 1) -> Embedding:
        """The embedding of `text`, padded with empty chunks to at least `chunks`. Raises UsageError if too long."""
        count = max(self.chunks(text), chunks)
        if (text, count) not in self._known:
            self._known[text, count] = self._encode(text, count)
        return self._known[text, count]

    def chunks(self, text: str) -> int:
        """How many windows `text` fills. Raises UsageError beyond LONGEST_CHUNKS."""
        count = 1
        for tokenizer, _ in self._encoders:
            room = tokenizer.model_max_length - 2
            tokens = len(_tokens(tokenizer, text)[0])
            count = max(count, -(-tokens // room))
            if count > LONGEST_CHUNKS:
                raise UsageError(
                    f"A prompt may have {LONGEST_CHUNKS * room} tokens, got {tokens}. Shorten it: {text[:40]!r}…"
                )
        return count

    def to(self, device: torch.device) -> None:
        """Move the text encoders; the embeddings go where they went before."""
        for _, encoder in self._encoders:
            encoder.to(device)

    def _encode(self, text: str, count: int) -> Embedding:
        embedded, pooled = [], None
        for tokenizer, encoder in self._encoders:
            ids, weights = _windows(tokenizer, text, count)
            with torch.inference_mode():
                output = encoder(ids.to(encoder.device), output_hidden_states=len(self._encoders) == 2)
            hidden = output[0] if len(self._encoders) == 1 else output.hidden_states[-2]
            embedded.append(_weighted(hidden, weights).reshape(1, -1, hidden.shape[-1]))
            pooled = output[0][:1] if len(self._encoders) == 2 else None
        joined = torch.cat(embedded, dim=-1).to(self._device)
        return Embedding(joined, None if pooled is None else pooled.to(self._device))


def _tokens(tokenizer: Any, text: str) -> tuple[list[int], list[float]]:
    """Token numbers, without the start and end marks, and the weight of each."""
    numbers: list[int] = []
    weights: list[float] = []
    for piece, weight in weighted(_with_all_vectors(tokenizer, text)):
        found = tokenizer(piece, add_special_tokens=False, verbose=False).input_ids
        numbers += found
        weights += [weight] * len(found)
    return numbers, weights


def inversion_token(word: str) -> str:
    """The token of a textual inversion: marked, because a tokenizer finds an added token inside longer words too."""
    return f"<{word}>"


def _with_all_vectors(tokenizer: Any, text: str) -> str:
    """Words of textual inversions, where they stand alone, as their tokens: `<name> <name>_1 …`."""
    added = getattr(tokenizer, "added_tokens_encoder", {})
    words = [token[1:-1] for token in added if token[:1] == "<" and token[1:2] != "|" and token[-1:] == ">"]
    if not words:
        return text

    def tokens(match: re.Match[str]) -> str:
        first = inversion_token(next(word for word in words if word.lower() == match.group(1).lower()))
        more = takewhile(added.__contains__, (f"{first}_{number}" for number in count(1)))
        return " ".join([first, *more])

    longest_first = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.sub(rf"<?(?<!\w)({longest_first})(?!\w)>?", tokens, text, flags=re.IGNORECASE)


def _windows(tokenizer: Any, text: str, count: int) -> tuple[Tensor, Tensor]:
    """Token numbers and weights, [count, window] each: start, up to window − 2 tokens, end, padding."""
    window = tokenizer.model_max_length
    numbers, weights = _tokens(tokenizer, text)
    ids = torch.full((count, window), tokenizer.pad_token_id)
    scales = torch.ones(count, window)
    for chunk in range(count):
        part = slice(chunk * (window - 2), (chunk + 1) * (window - 2))
        filled = [tokenizer.bos_token_id, *numbers[part], tokenizer.eos_token_id]
        ids[chunk, : len(filled)] = torch.tensor(filled)
        scales[chunk, 1 : len(filled) - 1] = torch.tensor(weights[part])
    return ids, scales


def _weighted(hidden: Tensor, weights: Tensor) -> Tensor:
    """`hidden` [chunks, window, width] times its weights, with its own mean; untouched where every weight is 1."""
    if bool((weights == 1.0).all()):
        return hidden
    scaled = hidden * weights[..., None].to(hidden.device, hidden.dtype)
    mean_before, mean_after = hidden.float().mean(), scaled.float().mean()
    # differs from A1111: a mean of almost zero is not restored, it would blow every value up.
    restored = mean_before / mean_after if mean_after.abs() > 1e-3 * hidden.float().abs().mean() else 1.0
    return scaled * restored
