"""GGUF's names for sizes and tensors, architecture by architecture, as Hugging Face's."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lm.convert import gguf
from lm.convert.llama2c import rotary_halves
from lm.convert.tensors import Reference, Tensor
from lm.convert.tokenizer import gguf_tokenizer_flags, tokenizer_from_gguf
from lm.errors import UserError, did_you_mean

_LLAMA_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk.#.attn_norm": "model.layers.#.input_layernorm",
    "blk.#.attn_q": "model.layers.#.self_attn.q_proj",
    "blk.#.attn_k": "model.layers.#.self_attn.k_proj",
    "blk.#.attn_v": "model.layers.#.self_attn.v_proj",
    "blk.#.attn_output": "model.layers.#.self_attn.o_proj",
    "blk.#.attn_q_norm": "model.layers.#.self_attn.q_norm",
    "blk.#.attn_k_norm": "model.layers.#.self_attn.k_norm",
    "blk.#.ffn_norm": "model.layers.#.post_attention_layernorm",
    "blk.#.ffn_gate": "model.layers.#.mlp.gate_proj",
    "blk.#.ffn_up": "model.layers.#.mlp.up_proj",
    "blk.#.ffn_down": "model.layers.#.mlp.down_proj",
}
_GPT2_NAMES = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "blk.#.attn_norm": "transformer.h.#.ln_1",
    "blk.#.attn_qkv": "transformer.h.#.attn.c_attn",
    "blk.#.attn_output": "transformer.h.#.attn.c_proj",
    "blk.#.ffn_norm": "transformer.h.#.ln_2",
    "blk.#.ffn_up": "transformer.h.#.mlp.c_fc",
    "blk.#.ffn_down": "transformer.h.#.mlp.c_proj",
}
_NAMES = {
    "llama": _LLAMA_NAMES,
    "qwen2": _LLAMA_NAMES,
    "qwen3": _LLAMA_NAMES,
    "gpt2": _GPT2_NAMES,
}
_CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
_ROPE_FREQUENCIES = "rope_freqs.weight"
# The keys of an architecture that are understood. Any other could change what is computed.
_KEYS = frozenset(
    {
        "vocab_size",
        "context_length",
        "embedding_length",
        "block_count",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "attention.layer_norm_rms_epsilon",
        "attention.layer_norm_epsilon",
        "rope.freq_base",
        "rope.dimension_count",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
        "rope.scaling.finetuned",
        "expert_count",
        "expert_used_count",
    }
)
# Llama 3.1's and 3.2's published stretching (Dubey et al. 2024); a file has its result alone.
_LOW, _HIGH, _ORIGINAL = 1.0, 4.0, 8192


def read_gguf(path: Path) -> Reference:
    """The checkpoint in a GGUF file, none of its tensors read yet.

    Raises:
      UserError: a damaged file, or an architecture, metadata or tensor that is not supported; the
        message names it.
    """
    metadata, stored = gguf.read_file(path)
    architecture = metadata.get("general.architecture")
    if architecture not in _NAMES:
        raise UserError(
            f"{path}: general.architecture={architecture!r} is not supported"
            f"{did_you_mean(str(architecture), _NAMES)}"
        )
    get = _Getter(path, architecture, metadata)
    config = _gpt2_config(get) if architecture == "gpt2" else _llama_config(get, stored)
    if "token_embd.weight" not in stored:
        raise UserError(f"{path} has no tensor 'token_embd.weight'")
    config = {
        "model_type": architecture,
        "architectures": [_CLASSES[architecture]],
        "vocab_size": stored["token_embd.weight"].shape[0],
        # Where the output has no matrix of its own, it is the embeddings'.
        "tie_word_embeddings": "output.weight" not in stored,
        **config,
    }
    for kind in ("bos", "eos", "pad"):
        token = metadata.get(f"tokenizer.ggml.{kind}_token_id")
        if isinstance(token, int):
            config[f"{kind}_token_id"] = token
    tensors = {
        _reference_name(path, architecture, name): _as_reference(architecture, config, name, tensor)
        for name, tensor in stored.items()
        if name != _ROPE_FREQUENCIES
    }
    return Reference(
        format="gguf",
        path=path,
        config=config,
        tensors=tensors,
        files=(path,),
        tokenizer=partial(tokenizer_from_gguf, metadata),
        wraps=partial(gguf_tokenizer_flags, metadata),
        metadata=gguf.text_metadata(metadata),
    )


class _Getter:
    """Values of an architecture's metadata, which are all to be understood."""

    def __init__(self, path: Path, architecture: str, metadata: Mapping[str, Any]) -> None:
        self._path, self._prefix, self._metadata = path, f"{architecture}.", metadata
        for key in metadata:
            known = key.removeprefix(self._prefix) in _KEYS
            if key.startswith(self._prefix) and not known:
                raise self.unsupported(key.removeprefix(self._prefix))

    def unsupported(self, key: str) -> UserError:
        value = self._metadata[self._prefix + key]
        return UserError(f"{self._path}: metadata {self._prefix}{key}={value!r} is not supported")

    def __call__(self, key: str, default: Any = None) -> Any:
        """A number or text; `default` of None where it must be there."""
        value = self._metadata.get(self._prefix + key, default)
        if value is None:
            raise UserError(f"{self._path} has no metadata {self._prefix}{key}")
        if not isinstance(value, (int, float, str)):
            raise self.unsupported(key)
        return value


def _gpt2_config(get: _Getter) -> dict[str, Any]:
    return {
        "n_embd": get("embedding_length"),
        "n_layer": get("block_count"),
        "n_head": get("attention.head_count"),
        "n_inner": get("feed_forward_length"),
        "n_positions": get("context_length"),
        "layer_norm_epsilon": _decimal(get("attention.layer_norm_epsilon")),
        "activation_function": "gelu_new",
    }


def _llama_config(get: _Getter, stored: Mapping[str, Tensor]) -> dict[str, Any]:
    heads, width = get("attention.head_count"), get("embedding_length")
    head_dim = get("attention.key_length", width // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if get(key, head_dim) != head_dim:
            raise get.unsupported(key)
    if get("expert_count", 0):
        raise get.unsupported("expert_count")
    base = float(get("rope.freq_base", 10000.0))
    return {
        "hidden_size": width,
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": get("context_length"),
        "rms_norm_eps": _decimal(get("attention.layer_norm_rms_epsilon")),
        "rope_theta": base,
        "rope_scaling": _scaling(get, stored.get(_ROPE_FREQUENCIES), base, head_dim),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_output.bias" in stored,
        "mlp_bias": "blk.0.ffn_down.bias" in stored,
    }


def _decimal(value: float) -> float:
    """The shortest number that is `value` in float32: 1e-5 is there as 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _scaling(
    get: _Getter, frequencies: Tensor | None, base: float, width: int
) -> dict[str, Any] | None:
    kind = get("rope.scaling.type", "none")
    if kind == "linear" and frequencies is None:
        return {"rope_type": "linear", "factor": float(get("rope.scaling.factor"))}
    if kind != "none":
        raise get.unsupported("rope.scaling.type")
    if frequencies is None:
        return None
    factors = frequencies.read().astype(np.float64)
    factor = float(factors.max())
    if np.allclose(factors, _llama3_factors(base, width, factor), rtol=1e-4):
        return {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": _LOW,
            "high_freq_factor": _HIGH,
            "original_max_position_embeddings": _ORIGINAL,
        }
    raise UserError(
        f"{frequencies.where} divides the rotary frequencies in another way than Llama 3.1's "
        f"({_LOW:g}, {_HIGH:g}, {_ORIGINAL}), which a config cannot say"
    )


def _llama3_factors(base: float, width: int, factor: float) -> np.ndarray:
    """What each frequency is divided by: see `lm.config.Llama3Scaling`."""
    turns = _ORIGINAL * base ** (-np.arange(0, width, 2) / width) / (2 * math.pi)
    blend = np.clip((turns - _LOW) / (_HIGH - _LOW), 0, 1)
    return 1 / ((1 - blend) / factor + blend)


def _reference_name(path: Path, architecture: str, name: str) -> str:
    stem, _, last = name.rpartition(".")
    layer = re.match(r"blk\.(\d+)\.", stem)
    pattern = re.sub(r"^blk\.\d+\.", "blk.#.", stem)
    if pattern not in _NAMES[architecture] or last not in ("weight", "bias"):
        raise UserError(f"{path}: tensor {name!r} is none of a {architecture} model that lm knows")
    found = _NAMES[architecture][pattern]
    return f"{found.replace('#', layer[1]) if layer else found}.{last}"


def _as_reference(
    architecture: str, config: Mapping[str, Any], name: str, tensor: Tensor
) -> Tensor:
    """The tensor as it lies in Hugging Face's checkpoint."""
    if architecture == "llama" and re.search(r"attn_[qk]\.", name):
        read = partial(_then, tensor.read, partial(rotary_halves, width=config["head_dim"]))
        return dataclasses.replace(tensor, read=read)
    if architecture == "gpt2" and re.search(r"(attn_qkv|attn_output|ffn_up|ffn_down)\.w", name):
        read = partial(_then, tensor.read, np.transpose)
        return dataclasses.replace(tensor, shape=tensor.shape[::-1], read=read)
    return tensor


def _then(read: Callable[[], np.ndarray], change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return change(read())
