"""GPT-2 in plain torch, as nanoGPT trains it: the peer of a decoder with learned positions.

One fused projection to queries, keys and values, `F.scaled_dot_product_attention`, tied embeddings,
and the parameters that `lm` has, by its own paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (its usual name)

from lm.bench.harness import Unavailable

# lm's activations, by torch's name of the approximation.
_GELU = {"gelu": "none", "gelu_tanh": "tanh"}


class LayerNorm(nn.Module):
    """With or without a bias."""

    def __init__(self, width: int, epsilon: float, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); [B, T, D]."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        super().__init__()
        width, norm = model["d_model"], model["norm"]
        self.heads, self.gelu = model["num_heads"], _GELU[model["activation"]]
        has_bias = norm["bias"] is not False
        self.attention_norm = LayerNorm(width, norm["epsilon"], has_bias)
        self.qkv = nn.Linear(width, 3 * width, bias=model["attention_bias"])
        self.output = nn.Linear(width, width, bias=model["attention_output_bias"])
        self.mlp_norm = LayerNorm(width, norm["epsilon"], has_bias)
        self.up = nn.Linear(width, model["d_ff"], bias=model["mlp_bias"])
        self.down = nn.Linear(model["d_ff"], width, bias=model["mlp_bias"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.attention_norm(x)).split(width, dim=2)
        query, key, value = (
            part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in parts
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        hidden = F.gelu(self.up(self.mlp_norm(x)), approximate=self.gelu)
        return x + self.down(hidden)


class GPT2(nn.Module):
    """The mean cross-entropy of `targets` [B, T] after `tokens` [B, T], in nats.

    Args:
      model: `lm.config.to_dict` of a decoder's ModelConfig.

    Raises:
      Unavailable: the model is no GPT-2.
    """

    def __init__(self, model: Mapping[str, Any]) -> None:
        super().__init__()
        _check(model)
        width = model["d_model"]
        self.tokens = nn.Embedding(model["vocab_size"], width)
        self.positions = nn.Embedding(model["position"]["max_length"], width)
        self.blocks = nn.ModuleList(Block(model) for _ in range(model["num_layers"]))
        has_bias = model["norm"]["bias"] is not False
        self.final_norm = LayerNorm(width, model["norm"]["epsilon"], has_bias)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(places)
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.final_norm(x), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.view(-1))

    def load(self, parameters: Mapping[str, np.ndarray]) -> GPT2:
        """Takes lm's parameters, by path; every one of them must have its place."""
        values = dict(parameters)
        with torch.no_grad():
            _put(self.tokens.weight, values.pop("token_embedding/embedding"))
            _put(self.positions.weight, values.pop("position_embedding/embedding"))
            _norm(self.final_norm, values, "final_norm")
            for number, block in enumerate(self.blocks):
                _load_block(block, values, f"layer_{number}")
        if values:
            raise ValueError(f"parameters without a place: {', '.join(sorted(values))}")
        return self


def _check(model: Mapping[str, Any]) -> None:
    gpt2 = (
        model["architecture"] == "decoder"
        and model["position"]["kind"] == "learned"
        and model["norm"]["kind"] == "layer"
        and model["norm"]["placement"] == "pre"
        and model["activation"] in _GELU
        and model["tie_embeddings"]
        and model["num_kv_heads"] is None
    )
    if not gpt2:
        raise Unavailable("the torch peer is GPT-2, and this model is not one")


def _load_block(block: Any, values: dict[str, np.ndarray], path: str) -> None:
    _norm(block.attention_norm, values, f"{path}/attention_norm")
    _norm(block.mlp_norm, values, f"{path}/mlp_norm")
    width = block.output.weight.shape[0]
    # [D, N, H] to torch's [out, in].
    parts = ("query", "key", "value")
    kernels = [values.pop(f"{path}/attention/{part}/kernel") for part in parts]
    _put(block.qkv.weight, np.concatenate([k.reshape(width, -1).T for k in kernels]))
    if block.qkv.bias is not None:
        biases = [values.pop(f"{path}/attention/{part}/bias").reshape(-1) for part in parts]
        _put(block.qkv.bias, np.concatenate(biases))
    kernel = values.pop(f"{path}/attention/output/kernel")
    values[f"{path}/attention/output/kernel"] = kernel.reshape(-1, width)
    for module, name in (
        (block.output, "attention/output"), (block.up, "mlp/up"), (block.down, "mlp/down")
    ):  # fmt: skip
        _put(module.weight, values.pop(f"{path}/{name}/kernel").T)
        if module.bias is not None:
            _put(module.bias, values.pop(f"{path}/{name}/bias"))


def _norm(norm: LayerNorm, values: dict[str, np.ndarray], path: str) -> None:
    _put(norm.weight, values.pop(f"{path}/scale"))
    if norm.bias is not None:
        _put(norm.bias, values.pop(f"{path}/bias"))


def _put(parameter: torch.Tensor, array: np.ndarray) -> None:
    if parameter.shape != array.shape:
        raise ValueError(f"shape {array.shape} for {tuple(parameter.shape)}")
    parameter.copy_(torch.tensor(np.ascontiguousarray(array)))
