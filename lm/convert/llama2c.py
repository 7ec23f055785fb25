"""llama2.c's .bin files (Karpathy 2023): a header of seven integers, then the tensors in a fixed
order. Version 0 has no magic, and its vocabulary's sign says whether the output has its own matrix;
version 1 has a 256-byte header; version 2 has the same, and matrices in groups of 8-bit integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from lm.convert.folder import refuse_pickle
from lm.convert.tensors import Reference, Tensor, read_array
from lm.convert.tokenizer import tokenizer_from_llama2c
from lm.data.tokenizer import Tokenizer
from lm.errors import UserError

_MAGIC = 0x616B3432  # "ak42"
_HEADER = 256
_FLOAT = np.dtype("<f4")
# Where its programs look when nobody says: beside the weights.
TOKENIZERS = ("tokenizer.bin",)


@dataclass(frozen=True)
class Header:
    """The sizes of a model; `group` is 0 where the matrices are float32."""

    version: int
    dim: int
    hidden_dim: int
    layers: int
    heads: int
    kv_heads: int
    vocab_size: int
    length: int
    tied: bool
    group: int = 0

    @property
    def head_width(self) -> int:
        return self.dim // self.heads

    def config(self) -> dict[str, object]:
        """What Hugging Face's config.json says of such a model."""
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": self.vocab_size,
            "hidden_size": self.dim,
            "intermediate_size": self.hidden_dim,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_width,
            "max_position_embeddings": self.length,
            "hidden_act": "silu",
            # Constants of llama2.c's program.
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "rope_scaling": None,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": self.tied,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }


def read_llama2c(path: Path, tokenizer: Path | None) -> Reference:
    """The checkpoint in a .bin file, none of its tensors read yet.

    Args:
      tokenizer: llama2.c's tokenizer file (tok512.bin); None is tokenizer.bin beside the weights.

    Raises:
      UserError: a pickle, a header that cannot be meant, or a file of another size than it says;
        no tokenizer.
    """
    header = _read_header(path)
    tensors: dict[str, Tensor] = {}
    offset = _HEADER if header.version else 28
    for name, shape, quantized in _order(header):
        count = math.prod(shape)
        if quantized and header.group:
            size = count + 4 * (count // header.group)
            read: Callable[[], np.ndarray] = partial(_grouped, path, offset, shape, header.group)
        else:
            size = 4 * count
            read = partial(read_array, path, offset, shape, _FLOAT)
        if name:
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                read = partial(_halves, read, header.head_width)
            tensors[name] = Tensor(shape, _FLOAT, size, f"{path}: {name}", read)
        offset += size
    actual = path.stat().st_size
    if actual != offset:
        raise UserError(
            f"{path} has {actual} bytes, and its header (version {header.version}: dim "
            f"{header.dim}, {header.layers} layers, vocabulary {header.vocab_size}) says {offset}: "
            "it is truncated, or no llama2.c file"
        )
    return Reference(
        format=f"llama2.c version {header.version}",
        path=path,
        config=header.config(),
        tensors=tensors,
        files=(path,),
        tokenizer=partial(_tokenizer, path, tokenizer, header.vocab_size),
        wraps=lambda: {"add_bos": True},
    )


def _read_header(path: Path) -> Header:
    refuse_pickle(path)
    with path.open("rb") as file:
        start = file.read(_HEADER)
    if len(start) < 28:
        raise UserError(f"{path} is truncated: a llama2.c header has 28 bytes, this {len(start)}")
    version, numbers, tied, group = 0, np.frombuffer(start, "<i4", 7), None, 0
    if int.from_bytes(start[:4], "little") == _MAGIC:
        version = int(np.frombuffer(start, "<i4", 1, 4)[0])
        if version not in (1, 2) or len(start) < _HEADER:
            raise UserError(f"{path}: llama2.c version {version} is not known, or the file is cut")
        numbers, tied = np.frombuffer(start, "<i4", 7, 8), start[36]
        group = int(np.frombuffer(start[37:41], "<i4")[0]) if version == 2 else 0
    dim, hidden_dim, layers, heads, kv_heads, vocab_size, length = numbers.tolist()
    shared = vocab_size > 0 if tied is None else bool(tied)
    sizes = (dim, hidden_dim, layers, heads, kv_heads, abs(vocab_size), length)
    sound = (
        all(0 < size < 1 << 26 for size in sizes)
        and dim % heads == 0
        and heads % kv_heads == 0
        and (version < 2 or (group > 0 and dim % group == 0 and hidden_dim % group == 0))
    )
    if not sound:
        raise UserError(
            f"{path} is no llama2.c file: its header would be dim {dim}, hidden_dim {hidden_dim}, "
            f"{layers} layers, {heads} heads, {kv_heads} key/value heads, vocabulary {vocab_size}, "
            f"length {length}" + (f", groups of {group}" if version == 2 else "")
        )
    return Header(
        version, dim, hidden_dim, layers, heads, kv_heads, abs(vocab_size), length, shared, group
    )


def _order(header: Header) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """(Hugging Face's name, shape, whether version 2 quantises it) as they lie in the file; what
    the programs skip has no name."""
    dim, hidden = header.dim, header.hidden_dim
    queries, keys = header.heads * header.head_width, header.kv_heads * header.head_width
    attention = (
        ("self_attn.q_proj", (queries, dim)),
        ("self_attn.k_proj", (keys, dim)),
        ("self_attn.v_proj", (keys, dim)),
        ("self_attn.o_proj", (dim, queries)),
    )
    mlp = (
        ("mlp.gate_proj", (hidden, dim)),
        ("mlp.down_proj", (dim, hidden)),
        ("mlp.up_proj", (hidden, dim)),
    )
    norms = (("input_layernorm", (dim,)),), (("post_attention_layernorm", (dim,)),)
    embedding = ("model.embed_tokens.weight", (header.vocab_size, dim), True)
    final = ("model.norm.weight", (dim,), False)

    def layers(group: tuple[tuple[str, tuple[int, ...]], ...]) -> Iterator:
        for name, shape in group:
            for i in range(header.layers):
                yield f"model.layers.{i}.{name}.weight", shape, len(shape) > 1

    if header.version == 0:
        yield embedding
        for group in (norms[0], attention, norms[1], mlp):
            yield from layers(group)
        yield final
        yield "", (2, header.length, header.head_width // 2), False  # cosines and sines
    else:
        yield from layers(norms[0])
        yield from layers(norms[1])
        yield final
        yield embedding
        yield from layers(attention)
        yield from layers(mlp)
    if not header.tied:
        yield "lm_head.weight", (header.vocab_size, dim), True


def _grouped(path: Path, offset: int, shape: tuple[int, ...], group: int) -> np.ndarray:
    """A matrix of version 2: its 8-bit integers, then a float32 scale for each group of them."""
    count = math.prod(shape)
    values = read_array(path, offset, (count // group, group), np.dtype(np.int8))
    scales = read_array(path, offset + count, (count // group, 1), _FLOAT)
    return (values.astype(np.float32) * scales).reshape(shape)


def _halves(read: Callable[[], np.ndarray], width: int) -> np.ndarray:
    return rotary_halves(read(), width)


def rotary_halves(rows: np.ndarray, width: int) -> np.ndarray:
    """Rows [N*H, ...] of heads whose rotary pairs are neighbours, in Hugging Face's order: the
    first of every pair, then the second."""
    pairs = rows.reshape(-1, width // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _tokenizer(path: Path, given: Path | None, vocab_size: int) -> Tokenizer:
    candidates = [given] if given is not None else [path.parent / name for name in TOKENIZERS]
    for candidate in candidates:
        if candidate.is_file():
            return tokenizer_from_llama2c(candidate, vocab_size)
    if given is not None:
        what = "a folder, not a file" if given.is_dir() else "no such file"
        raise UserError(
            f"--tokenizer={given}: {what}; name llama2.c's tokenizer file (for stories260K it is "
            "tok512.bin)"
        )
    raise UserError(
        f"no tokenizer at {candidates[0]}, where llama2.c's tokenizer file would be (for "
        "stories260K it is tok512.bin)"
    )
