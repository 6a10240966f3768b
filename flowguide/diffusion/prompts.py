"""Prompts to embeddings, computed once per text."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger("flowguide.diffusion")


class PromptEncoder:
    """CLIP text encoder with its tokenizer; embeddings are kept per text."""

    def __init__(self, tokenizer: Any, text_encoder: Any):
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._known: dict[str, Tensor] = {}

    def __call__(self, text: str) -> Tensor:
        """Embedding [1, tokens, width] of `text` in the text encoder's dtype and device.

        Text past the encoder's window is cut, with a warning that names what was dropped.
        """
        if text not in self._known:
            self._known[text] = self._encode(text)
        return self._known[text]

    def _encode(self, text: str) -> Tensor:
        window = self._tokenizer.model_max_length
        tokens = self._tokenizer(text, padding="max_length", max_length=window, truncation=True, return_tensors="pt")
        whole = self._tokenizer(text, return_tensors="pt").input_ids
        if whole.shape[-1] > window:
            dropped = self._tokenizer.batch_decode(whole[:, window - 1 : -1])[0]
            log.warning("The prompt is longer than %d tokens; this part is not used: %s", window, dropped)
        with torch.inference_mode():
            return self._text_encoder(tokens.input_ids.to(self._text_encoder.device))[0]
