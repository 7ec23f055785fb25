"""torch's attention alone, forward and backward."""

from __future__ import annotations

import time
from typing import Any

import torch

from lm.bench.peers.torch_train import fast_attention


class Attention:
    """Causal `F.scaled_dot_product_attention` of [B, T, N, H] (its own [B, N, T, H] are views of
    it), and the gradients to queries, keys and values."""

    def __init__(
        self, batch: int, length: int, heads: int, width: int, dtype: str, calls: int
    ) -> None:
        self._shape, self._dtype = (batch, length, heads, width), getattr(torch, dtype)
        self._calls = calls

    def prepare(self) -> dict[str, Any]:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        options: dict[str, Any] = {"device": self._device, "dtype": self._dtype}
        self._inputs = [torch.randn(self._shape, **options).requires_grad_(True) for _ in range(3)]
        self._weights = torch.randn(self._shape, **options)
        self.round()
        return {"units": self._calls}

    def round(self) -> float:
        began = time.perf_counter()
        with fast_attention(self._device):
            for _ in range(self._calls):
                heads_first = (x.transpose(1, 2) for x in self._inputs)
                mixed = torch.nn.functional.scaled_dot_product_attention(
                    *heads_first, is_causal=True
                )
                torch.autograd.grad(mixed.transpose(1, 2), self._inputs, self._weights)
                if self._device.type == "cuda":
                    torch.cuda.synchronize()
        return time.perf_counter() - began

    def finish(self) -> dict[str, Any]:
        return {}
