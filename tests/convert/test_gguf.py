"""GGUF files: the format, its blocks, and architectures equal to their Hugging Face folders."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lm.convert import gguf
from lm.convert.gguf_models import read_gguf
from lm.convert.incoming import convert, read_reference
from lm.errors import UserError
from lm.train.workdir import load_run
from tests.convert.files import (
    GPT2,
    LLAMA,
    flat,
    gguf_vocabulary,
    gpt2_shapes,
    llama_shapes,
    random_tensors,
    write_folder,
    write_gguf,
)

Stored = dict[str, tuple[int, tuple[int, ...], bytes]]


def f32(array: np.ndarray) -> tuple[int, tuple[int, ...], bytes]:
    return 0, array.shape, array.astype("<f4").tobytes()


# ------------------------------------------------------------------------------------------- blocks


def q8_0(rng: np.random.Generator) -> tuple[bytes, list[float]]:
    scale = np.float16(rng.uniform(0.01, 0.1))
    numbers = rng.integers(-127, 128, 32)
    data = scale.tobytes() + numbers.astype(np.int8).tobytes()
    return data, [float(scale) * int(n) for n in numbers]


def nibbles(rng: np.random.Generator) -> tuple[bytes, list[int]]:
    """16 bytes; the low halves are the first 16 numbers."""
    numbers = rng.integers(0, 16, 32).tolist()
    return bytes(numbers[i] | numbers[i + 16] << 4 for i in range(16)), numbers


def q4_0(rng: np.random.Generator) -> tuple[bytes, list[float]]:
    scale = np.float16(rng.uniform(0.01, 0.1))
    data, numbers = nibbles(rng)
    return scale.tobytes() + data, [float(scale) * (n - 8) for n in numbers]


def q4_1(rng: np.random.Generator) -> tuple[bytes, list[float]]:
    scale, low = np.float16(rng.uniform(0.01, 0.1)), np.float16(rng.uniform(-1, 1))
    data, numbers = nibbles(rng)
    return scale.tobytes() + low.tobytes() + data, [float(scale) * n + float(low) for n in numbers]


@pytest.mark.parametrize(("kind", "make"), [(8, q8_0), (2, q4_0), (3, q4_1)])
def test_blocks_are_decoded(tmp_path: Path, kind: int, make: Any) -> None:
    rng = np.random.default_rng(0)
    blocks = [make(rng) for _ in range(6)]
    data = b"".join(block for block, _ in blocks)
    path = write_gguf(tmp_path / "a.gguf", {}, {"x": (kind, (3, 64), data), "y": f32(np.ones(3))})
    tensors = gguf.read_file(path).tensors
    expected = np.asarray([n for _, numbers in blocks for n in numbers]).reshape(3, 64)
    assert tensors["x"].shape == (3, 64) and tensors["x"].num_bytes == len(data)
    np.testing.assert_allclose(tensors["x"].read(), expected, rtol=2e-7, atol=1e-7)
    np.testing.assert_array_equal(tensors["y"].read(), np.ones(3))


def test_a_tensor_of_many_blocks_is_decoded_in_portions(tmp_path: Path) -> None:
    count = (1 << 18) + 3
    record = np.zeros(count, np.dtype([("d", "<f2"), ("q", "i1", 32)]))
    record["d"], record["q"][:, 0] = 0.5, np.arange(count) % 100
    path = write_gguf(tmp_path / "a.gguf", {}, {"x": (8, (count, 32), record.tobytes())})
    array = gguf.read_file(path).tensors["x"].read()
    np.testing.assert_array_equal(array[:, 0], 0.5 * (np.arange(count) % 100))
    assert not array[:, 1:].any()


@pytest.mark.parametrize(
    ("kind", "dtype"), [(0, np.float32), (1, np.float16), (30, ml_dtypes.bfloat16)]
)
def test_plain_numbers(tmp_path: Path, kind: int, dtype: Any) -> None:
    array = np.random.default_rng(0).standard_normal((3, 5)).astype(dtype)
    path = write_gguf(tmp_path / "a.gguf", {}, {"x": (kind, (3, 5), array.tobytes())}, version=2)
    np.testing.assert_array_equal(gguf.read_file(path).tensors["x"].read(), array, strict=True)


def test_metadata_of_every_kind(tmp_path: Path) -> None:
    given = {"a": 7, "b": True, "c": "text \u00e9", "d": 0.5, "e": ["x", ""], "f": [1, -2]}
    path = write_gguf(tmp_path / "a.gguf", given, {})
    assert gguf.read_file(path).metadata == given
    assert gguf.text_metadata({"a": 1, "tokens": ["x"] * 65}) == {"a": 1}


def test_the_formats_own_library_agrees(tmp_path: Path) -> None:
    library = pytest.importorskip("gguf")
    array = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    path = tmp_path / "theirs.gguf"
    writer = library.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_array("some.words", ["a", "b"])
    kinds = library.GGMLQuantizationType
    for kind in (kinds.Q8_0, kinds.Q4_0, kinds.Q4_1, kinds.BF16):
        writer.add_tensor(kind.name, library.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = gguf.read_file(path)
    assert read.metadata["llama.context_length"] == 64 and read.metadata["some.words"] == ["a", "b"]
    for tensor in library.GGUFReader(path).tensors:
        expected = library.dequantize(tensor.data, tensor.tensor_type)
        ours = read.tensors[tensor.name].read().astype(np.float32)
        np.testing.assert_array_equal(ours, expected, err_msg=tensor.name)


# ------------------------------------------------------------------------------------ damaged files


def a_file(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "a.gguf", {"general.alignment": 32}, {"x": f32(np.ones((4, 8)))})


def test_every_truncation_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = a_file(tmp_path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="truncated|damaged"):
            gguf.read_file(path)


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (0, b"GGML", "does not begin with GGUF, so it is no GGUF file"),
        (4, struct.pack("<I", 1), "it is version 1; lm reads"),
        (4, struct.pack(">I", 3), "it is big-endian; lm reads"),
        (8, struct.pack("<Q", 1 << 60), "damaged"),
        (16, struct.pack("<Q", 1 << 60), "damaged"),
        (24, struct.pack("<Q", 1 << 60), "it ends within a metadata key"),
        (32, b"\xff\xff", "a metadata key is not UTF-8"),
        (49, struct.pack("<I", 99), "metadata 'general.alignment' is of type 99"),
        (53, struct.pack("<I", 0), "general.alignment is 0"),
    ],
)
def test_a_bad_header_is_refused(tmp_path: Path, offset: int, content: bytes, message: str) -> None:
    path = a_file(tmp_path)
    whole = bytearray(path.read_bytes())
    whole[offset : offset + len(content)] = content
    path.write_bytes(whole)
    with pytest.raises(UserError, match=message) as caught:
        gguf.read_file(path)
    assert str(path) in str(caught.value)


def test_a_type_that_is_not_read_is_named_with_those_that_are(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", {}, {"blk.0.attn_q.weight": (12, (1, 256), b"\0" * 144)})
    with pytest.raises(UserError) as caught:
        gguf.read_file(path)
    message = str(caught.value)
    assert "tensor 'blk.0.attn_q.weight' is of type Q4_K" in message
    assert "lm reads F32, F16, BF16, Q4_0, Q4_1, Q8_0" in message


def test_rows_are_whole_blocks(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", {}, {"x": (8, (32, 3), b"\0" * 102)})
    with pytest.raises(UserError, match=r"\[32, 3\] is not made of Q8_0's blocks of 32"):
        gguf.read_file(path)


# ------------------------------------------------------------------------------------ architectures

LLAMA_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GPT2_NAMES = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def llama_metadata(config: dict[str, Any]) -> dict[str, Any]:
    kind = config["model_type"]
    sizes = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": config["rope_theta"],
    }
    if "head_dim" in config:
        sizes["attention.key_length"] = sizes["attention.value_length"] = config["head_dim"]
    named = {f"{kind}.{key}": value for key, value in sizes.items()}
    return {"general.architecture": kind, **named, **gguf_vocabulary()}


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to Llama's queries and keys."""
    pairs = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def stored_llama(config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Stored:
    stored: Stored = {}
    for name, array in tensors.items():
        stem, _, last = name.rpartition(".")
        if config["model_type"] == "llama" and stem.endswith(("q_proj", "k_proj")):
            kind = "attention" if stem.endswith("q_proj") else "key_value"
            array = interleaved(array, config[f"num_{kind}_heads"])
        layer = stem.removeprefix("model.layers.").partition(".")
        found = LLAMA_NAMES.get(stem) or f"blk.{layer[0]}.{LLAMA_NAMES[layer[2]]}"
        stored[f"{found}.{last}"] = f32(array)
    return stored


def same_parameters(tmp_path: Path, file: Path, folder: Path) -> None:
    convert(read_reference(file), tmp_path / "from_gguf")
    convert(read_reference(folder), tmp_path / "from_folder")
    ours, theirs = load_run(tmp_path / "from_gguf"), load_run(tmp_path / "from_folder")
    assert ours.config.model == theirs.config.model
    expected = dict(flat(theirs.params))
    assert dict(flat(ours.params)).keys() == expected.keys()
    for name, array in flat(ours.params):
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    assert ours.tokenizer.decode([40, 41, 50]) == theirs.tokenizer.decode([40, 41, 50])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "rope_theta": 500000.0},
        {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
        {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 8},
    ],
    ids=["llama", "tied", "qwen2", "qwen3"],
)
def test_llamas_are_those_of_their_folders(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = {**LLAMA, **changes}
    tensors = random_tensors(llama_shapes(config))
    folder = write_folder(tmp_path / "folder", config, tensors)
    stored = stored_llama(config, tensors)
    same_parameters(
        tmp_path, write_gguf(tmp_path / "model.gguf", llama_metadata(config), stored), folder
    )


def gpt2_file(path: Path, tensors: dict[str, np.ndarray], **more: Any) -> Path:
    sizes = {
        "context_length": GPT2["n_positions"],
        "embedding_length": GPT2["n_embd"],
        "block_count": GPT2["n_layer"],
        "feed_forward_length": GPT2["n_inner"],
        "attention.head_count": GPT2["n_head"],
        "attention.layer_norm_epsilon": GPT2["layer_norm_epsilon"],
        **more,
    }
    metadata = {f"gpt2.{key}": value for key, value in sizes.items()}
    stored: Stored = {}
    for name, array in tensors.items():
        stem, _, last = name.rpartition(".")
        layer = stem.removeprefix("transformer.h.").partition(".")
        found = GPT2_NAMES.get(stem) or f"blk.{layer[0]}.{GPT2_NAMES[layer[2]]}"
        conv1d = ".c_" in stem and last == "weight"
        stored[f"{found}.{last}"] = f32(array.T if conv1d else array)
    return write_gguf(
        path, {"general.architecture": "gpt2", **metadata, **gguf_vocabulary()}, stored
    )


def test_gpt2_is_that_of_its_folder(tmp_path: Path) -> None:
    tensors = random_tensors(gpt2_shapes(GPT2))
    folder = write_folder(tmp_path / "folder", GPT2, tensors)
    same_parameters(tmp_path, gpt2_file(tmp_path / "model.gguf", tensors), folder)


def test_llama3s_stretching_is_recognised_by_its_factors(tmp_path: Path) -> None:
    config = {**LLAMA, "rope_theta": 500000.0, "hidden_size": 256}
    width, factor = 64, 8.0
    frequencies = 500000.0 ** (-np.arange(0, width, 2) / width)
    factors = []
    for wavelength in 2 * np.pi / frequencies:
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192:
            factors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / 3
            factors.append(1 / ((1 - smooth) / factor + smooth))
    assert 1.0 < sorted(factors)[len(factors) // 2] < factor, "the middle is to be blended"
    stored = stored_llama(config, random_tensors(llama_shapes(config)))
    metadata = llama_metadata(config)
    path = write_gguf(
        tmp_path / "a.gguf", metadata, {**stored, "rope_freqs.weight": f32(np.asarray(factors))}
    )
    assert read_gguf(path).config["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    strange = f32(np.linspace(1, 8, 32))
    path = write_gguf(tmp_path / "b.gguf", metadata, {**stored, "rope_freqs.weight": strange})
    with pytest.raises(UserError, match="divides the rotary frequencies in another way"):
        read_gguf(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "mamba"}, "general.architecture='mamba' is not supported"),
        ({"llama.expert_count": 8}, "metadata llama.expert_count=8 is not supported"),
        ({"llama.logit_scale": 0.5}, "metadata llama.logit_scale=0.5 is not supported"),
        ({"llama.rope.scaling.type": "yarn"}, "metadata llama.rope.scaling.type='yarn' is not"),
        ({"llama.rope.dimension_count": 2}, "metadata llama.rope.dimension_count=2 is not"),
        ({"llama.block_count": None}, "has no metadata llama.block_count"),
        ({"llama.block_count": ["two"]}, "metadata llama.block_count=.* is not supported"),
    ],
)
def test_what_would_compute_something_else_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    metadata = {**llama_metadata(LLAMA), **changes}
    metadata = {key: value for key, value in metadata.items() if value is not None}
    stored = stored_llama(LLAMA, random_tensors(llama_shapes(LLAMA)))
    with pytest.raises(UserError, match=message):
        read_gguf(write_gguf(tmp_path / "a.gguf", metadata, stored))


def test_linear_scaling_comes_along(tmp_path: Path) -> None:
    metadata = llama_metadata(LLAMA)
    metadata |= {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    stored = stored_llama(LLAMA, random_tensors(llama_shapes(LLAMA)))
    reference = read_gguf(write_gguf(tmp_path / "a.gguf", metadata, stored))
    assert reference.config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}


def test_a_tensor_of_no_known_name_is_refused(tmp_path: Path) -> None:
    stored = stored_llama(LLAMA, random_tensors(llama_shapes(LLAMA)))
    stored["blk.0.ffn_gate_inp.weight"] = f32(np.ones((2, 2)))
    with pytest.raises(UserError, match=r"'blk\.0\.ffn_gate_inp\.weight' is none of a llama model"):
        read_gguf(write_gguf(tmp_path / "a.gguf", llama_metadata(LLAMA), stored))


def test_quantised_weights_are_used(tmp_path: Path) -> None:
    """Q8_0 from end to end: close to what was quantised, and exactly what the file says."""
    config = {**LLAMA, "hidden_size": 32, "intermediate_size": 64}
    tensors = random_tensors(llama_shapes(config))
    stored = stored_llama(config, tensors)
    for name, (_, shape, data) in stored.items():
        if len(shape) == 2:
            blocks = np.frombuffer(data, "<f4").reshape(-1, 32)
            record = np.zeros(len(blocks), np.dtype([("d", "<f2"), ("q", "i1", 32)]))
            record["d"] = np.abs(blocks).max(axis=1) / 127
            record["q"] = np.round(blocks / record["d"].astype(np.float32)[:, None]).clip(-127, 127)
            stored[name] = (8, shape, record.tobytes())
    path = write_gguf(tmp_path / "a.gguf", llama_metadata(config), stored)
    convert(read_reference(path), tmp_path / "W")
    params = dict(flat(load_run(tmp_path / "W").params))
    table = tensors["model.embed_tokens.weight"]
    error = np.abs(params["token_embedding/embedding"] - table).max()
    assert 0 < error < np.abs(table).max() / 120
