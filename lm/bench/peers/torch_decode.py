"""`transformers.generate` on one batch of prompts."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM


class Decode:
    """Greedy continuations of `prompts`, all of one length, from the Hugging Face folder."""

    def __init__(self, folder: str, prompts: list[list[int]], new_tokens: int) -> None:
        self._folder, self._prompts, self._new_tokens = folder, prompts, new_tokens

    def prepare(self) -> dict[str, Any]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForCausalLM.from_pretrained(self._folder, attn_implementation="sdpa")
        self._model = model.to(device).eval()
        # Nothing ends a row, and there is no padding: the model's end of text is a token like
        # any other.
        self._model.generation_config.eos_token_id = None
        self._inputs = torch.tensor(self._prompts, device=device)
        for _ in range(2):
            self.round()
        return {
            "units": self._new_tokens,
            "tokens_per_unit": len(self._prompts),
            "threads": torch.get_num_threads(),
        }

    def round(self) -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            tokens = self._model.generate(
                self._inputs,
                attention_mask=torch.ones_like(self._inputs),
                do_sample=False,
                max_new_tokens=self._new_tokens,
                pad_token_id=0,
            )
        self._tokens = tokens[:, self._inputs.shape[1] :].tolist()
        return time.perf_counter() - began

    def finish(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"tokens": self._tokens}
        if self._inputs.device.type == "cuda":
            facts["peak_device_memory"] = torch.cuda.max_memory_allocated()
        return facts
