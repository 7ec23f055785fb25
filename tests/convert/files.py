"""Small checkpoints as other programs write them, made by hand: no library of theirs is needed."""

from __future__ import annotations

import functools
import json
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from lm.config import BPETokenizer
from lm.data.tokenizer import Tokenizer, train_tokenizer

NAMES = {
    np.dtype(np.float64): "F64",
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(np.int64): "I64",
}
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": [0, 7],
}
GPT2 = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 300,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 64,
    "n_positions": 32,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
    "tie_word_embeddings": True,
}


@functools.cache
def tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer of 280 tokens."""
    text = "the quick brown fox jumps over the lazy dog " * 20
    return train_tokenizer(BPETokenizer(vocab_size=280), lambda: iter([text]))


def tokenizer_json() -> dict[str, Any]:
    """The same as Hugging Face's file."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer().save(folder)
        values = json.loads((Path(folder) / "tokenizer.json").read_text())
    byte_level = {"add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    return {**values, "decoder": {"type": "ByteLevel", **byte_level}}


def llama_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a Llama (or Qwen2, Qwen3) checkpoint."""
    width, hidden, kind = config["hidden_size"], config["intermediate_size"], config["model_type"]
    head = config.get("head_dim", width // config["num_attention_heads"])
    queries, keys = (config[f"num_{k}_heads"] * head for k in ("attention", "key_value"))
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], width),
        "model.norm.weight": (width,),
    }
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        shapes[layer + "input_layernorm.weight"] = (width,)
        shapes[layer + "post_attention_layernorm.weight"] = (width,)
        for name, outputs in (("q", queries), ("k", keys), ("v", keys)):
            shapes[layer + f"self_attn.{name}_proj.weight"] = (outputs, width)
            if kind == "qwen2":
                shapes[layer + f"self_attn.{name}_proj.bias"] = (outputs,)
        if kind == "qwen3":
            shapes[layer + "self_attn.q_norm.weight"] = (head,)
            shapes[layer + "self_attn.k_norm.weight"] = (head,)
        shapes[layer + "self_attn.o_proj.weight"] = (width, queries)
        shapes[layer + "mlp.gate_proj.weight"] = (hidden, width)
        shapes[layer + "mlp.up_proj.weight"] = (hidden, width)
        shapes[layer + "mlp.down_proj.weight"] = (width, hidden)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], width)
    return shapes


def gpt2_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a GPT-2 checkpoint."""
    width, hidden = config["n_embd"], config["n_inner"]
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (config["vocab_size"], width),
        "transformer.wpe.weight": (config["n_positions"], width),
        "transformer.ln_f.weight": (width,),
        "transformer.ln_f.bias": (width,),
    }
    for i in range(config["n_layer"]):
        layer = f"transformer.h.{i}."
        for name in ("ln_1", "ln_2"):
            shapes[f"{layer}{name}.weight"] = shapes[f"{layer}{name}.bias"] = (width,)
        for name, inputs, outputs in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, hidden),
            ("mlp.c_proj", hidden, width),
        ):
            shapes[f"{layer}{name}.weight"] = (inputs, outputs)
            shapes[f"{layer}{name}.bias"] = (outputs,)
    return shapes


def random_tensors(
    shapes: Mapping[str, tuple[int, ...]], dtype: Any = np.float32, seed: int = 0
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: (0.3 * rng.standard_normal(shape, dtype=np.float32)).astype(dtype)
        for name, shape in shapes.items()
    }


def header_of(specs: Mapping[str, tuple[Any, tuple[int, ...]]]) -> dict[str, Any]:
    """A safetensors header for tensors one after another."""
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in specs.items():
        begin, end = end, end + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        offsets = [begin, end]
        header[name] = {"dtype": NAMES[np.dtype(dtype)], "shape": shape, "data_offsets": offsets}
    return header


def write_raw(path: Path, header: Any, data: bytes = b"") -> Path:
    """A safetensors file with this header (JSON values, or bytes) and these bytes after it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> Path:
    header = header_of({name: (a.dtype, a.shape) for name, a in tensors.items()})
    return write_raw(path, header, b"".join(a.tobytes() for a in tensors.values()))


def write_large(path: Path, config: Mapping[str, Any], dtype: Any) -> int:
    """A Llama checkpoint without ever having all of it in memory; its size in bytes."""
    shapes = llama_shapes(config)
    header = json.dumps(header_of({n: (dtype, s) for n, s in shapes.items()})).encode()
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for shape in shapes.values():
            file.write(rng.standard_normal(shape, dtype=np.float32).astype(dtype).tobytes())
    return path.stat().st_size


def write_folder(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray] | None = None
) -> Path:
    """A Hugging Face folder: config.json, a tokenizer and, where given, model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    if tensors is not None:
        write_safetensors(folder / "model.safetensors", tensors)
    return folder


def write_shards(folder: Path, tensors: Mapping[str, np.ndarray], count: int) -> dict[str, str]:
    """The tensors dealt out to `count` files, and their index; which file has which."""
    names = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    weight_map = {name: names[i % count] for i, name in enumerate(tensors)}
    for file in names:
        part = {name: tensors[name] for name in tensors if weight_map[name] == file}
        write_safetensors(folder / file, part)
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: Mapping[str, str]) -> None:
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a nested dict, by path."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", np.asarray(value)


# --------------------------------------------------------------------------------------------- GGUF


def gguf_string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def gguf_value(value: Any) -> bytes:
    """A metadata value with its type before it."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + gguf_string(value)
    kinds = {str: 8, int: 5, float: 6}
    kind = kinds[type(value[0])]
    pack: dict[int, Callable[[Any], bytes]] = {
        8: gguf_string,
        5: lambda n: struct.pack("<i", n),
        6: lambda x: struct.pack("<f", x),
    }
    return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(map(pack[kind], value))


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[int, tuple[int, ...], bytes]],
    version: int = 3,
) -> Path:
    """A GGUF file of tensors given as (type, shape, bytes)."""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        out += gguf_string(key) + gguf_value(value)
    data = b""
    for name, (kind, shape, content) in tensors.items():
        out += gguf_string(name) + struct.pack("<I", len(shape))
        out += struct.pack(f"<{len(shape)}Q", *shape[::-1])
        out += struct.pack("<IQ", kind, len(data))
        data += content + b"\0" * (-len(content) % 32)
    path.write_bytes(out + b"\0" * (-len(out) % 32) + data)
    return path


def gguf_vocabulary() -> dict[str, Any]:
    """The tokenizer of `tokenizer()`, as GGUF metadata."""
    model = tokenizer_json()["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * len(tokens),
        "tokenizer.ggml.merges": [
            m if isinstance(m, str) else " ".join(m) for m in model["merges"]
        ],
    }
