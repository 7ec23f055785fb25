"""llama2.c's .bin files: the three versions, and the published model's published text."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from lm.convert.incoming import convert, read_reference
from lm.convert.llama2c import read_llama2c, rotary_halves
from lm.errors import UserError

DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCABULARY, LENGTH = SIZES = (16, 32, 2, 4, 2, 20, 8)
HEAD = DIM // HEADS


def weights(seed: int = 0) -> dict[str, list[np.ndarray]]:
    """A model's matrices as llama2.c calls them, one a layer where there are several."""
    rng = np.random.default_rng(seed)

    def make(*shape: int, count: int = LAYERS) -> list[np.ndarray]:
        return [rng.standard_normal(shape, dtype=np.float32) for _ in range(count)]

    keys = KV_HEADS * HEAD
    return {
        "attention_norm": make(DIM),
        "wq": make(DIM, DIM),
        "wk": make(keys, DIM),
        "wv": make(keys, DIM),
        "wo": make(DIM, DIM),
        "ffn_norm": make(DIM),
        "w1": make(HIDDEN, DIM),
        "w2": make(DIM, HIDDEN),
        "w3": make(HIDDEN, DIM),
        "norm": make(DIM, count=1),
        "embedding": make(VOCABULARY, DIM, count=1),
        "output": make(VOCABULARY, DIM, count=1),
        "frequencies": make(2, LENGTH, HEAD // 2, count=1),
    }


def joined(arrays: dict[str, list[np.ndarray]], *names: str) -> bytes:
    return b"".join(array.tobytes() for name in names for array in arrays[name])


def version_0(path: Path, tied: bool) -> Path:
    vocabulary = VOCABULARY if tied else -VOCABULARY
    header = struct.pack("<7i", *SIZES[:5], vocabulary, LENGTH)
    attention = ("attention_norm", "wq", "wk", "wv", "wo")
    body = joined(weights(), "embedding", *attention, "ffn_norm", "w1", "w2", "w3", "norm")
    rest = ("frequencies",) if tied else ("frequencies", "output")
    path.write_bytes(header + body + joined(weights(), *rest))
    return path


def long_header(version: int, tied: bool, group: int = 0) -> bytes:
    header = struct.pack("<Ii7iB", 0x616B3432, version, *SIZES, tied)
    return (header + (struct.pack("<i", group) if version == 2 else b"")).ljust(256, b"\0")


def version_1(path: Path, tied: bool) -> Path:
    matrices = ("embedding", "wq", "wk", "wv", "wo", "w1", "w2", "w3")
    body = joined(weights(), "attention_norm", "ffn_norm", "norm", *matrices)
    output = b"" if tied else joined(weights(), "output")
    path.write_bytes(long_header(1, tied) + body + output)
    return path


def version_2(path: Path, group: int) -> tuple[Path, dict[str, list[np.ndarray]]]:
    """The file, and the matrices that it stands for."""
    arrays = weights()
    out = long_header(2, True, group) + joined(arrays, "attention_norm", "ffn_norm", "norm")
    for name in ("embedding", "wq", "wk", "wv", "wo", "w1", "w2", "w3"):
        for i, array in enumerate(arrays[name]):
            groups = array.reshape(-1, group)
            scales = np.abs(groups).max(axis=1, keepdims=True) / np.float32(127)
            numbers = np.round(groups / scales).astype(np.int8)
            out += numbers.tobytes() + scales.astype(np.float32).tobytes()
            arrays[name][i] = (numbers * scales.astype(np.float32)).reshape(array.shape)
    path.write_bytes(out)
    return path, arrays


NAMES = {
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "wq": "self_attn.q_proj",
    "wk": "self_attn.k_proj",
    "wv": "self_attn.v_proj",
    "wo": "self_attn.o_proj",
    "w1": "mlp.gate_proj",
    "w2": "mlp.down_proj",
    "w3": "mlp.up_proj",
}


def check_tensors(path: Path, arrays: dict[str, list[np.ndarray]], tied: bool) -> None:
    reference = read_llama2c(path, None)
    expected = {
        "model.embed_tokens.weight": arrays["embedding"][0],
        "model.norm.weight": arrays["norm"][0],
    }
    if not tied:
        expected["lm_head.weight"] = arrays["output"][0]
    for theirs, name in NAMES.items():
        for i, array in enumerate(arrays[theirs]):
            if theirs in ("wq", "wk"):
                # Row 2i and 2i + 1 of a head turn together there, i and i + H/2 at Hugging Face.
                heads = array.reshape(-1, HEAD, DIM)
                array = np.concatenate([heads[:, 0::2], heads[:, 1::2]], axis=1).reshape(-1, DIM)
            expected[f"model.layers.{i}.{name}.weight"] = array
    assert reference.tensors.keys() == expected.keys()
    for name, array in expected.items():
        assert reference.tensors[name].shape == array.shape
        np.testing.assert_array_equal(reference.tensors[name].read(), array, err_msg=name)
    assert reference.config["tie_word_embeddings"] is tied
    assert reference.config["num_key_value_heads"] == KV_HEADS
    assert reference.config["intermediate_size"] == HIDDEN
    assert reference.wraps() == {"add_bos": True}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("write", [version_0, version_1])
def test_float_versions(tmp_path: Path, write, tied: bool) -> None:
    check_tensors(write(tmp_path / "model.bin", tied), weights(), tied)


@pytest.mark.parametrize("group", [8, 16])
def test_version_2_is_dequantised(tmp_path: Path, group: int) -> None:
    path, arrays = version_2(tmp_path / "model.bin", group)
    check_tensors(path, arrays, tied=True)


def test_rotary_halves_of_a_bias() -> None:
    np.testing.assert_array_equal(rotary_halves(np.arange(8), 4), [0, 2, 1, 3, 4, 6, 5, 7])


def test_a_truncated_file_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = version_0(tmp_path / "model.bin", True)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=rf"has {size - 4} bytes, and its header .* says {size}"):
        read_llama2c(path, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1234", "a llama2.c header has 28 bytes, this 4"),
        (
            struct.pack("<7i", 16, 32, 2, 5, 5, 20, 8),
            "is no llama2.c file: its header would be dim",
        ),
        (struct.pack("<7i", 16, 32, 2, 4, 3, 20, 8), "is no llama2.c file"),
        (struct.pack("<7i", *[-1] * 7), "is no llama2.c file"),
        (b"BM some picture " * 4, "is no llama2.c file"),
        (long_header(3, True), "llama2.c version 3 is not known"),
        (long_header(2, True, 0), "is no llama2.c file.*groups of 0"),
        (long_header(2, True, 7), "is no llama2.c file.*groups of 7"),
        (b"\x80\x02}q\x00." * 9, "is a pickle: a pickle can run any code when it is opened"),
        (b"PK\x03\x04" + b"\0" * 60, "is a pickle"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_llama2c(path, None)


def test_a_missing_tokenizer_says_which_it_could_be(tmp_path: Path) -> None:
    reference = read_llama2c(version_0(tmp_path / "model.bin", True), None)
    with pytest.raises(UserError, match=r"no tokenizer at .*tokenizer\.bin, .* --tokenizer="):
        convert(reference, tmp_path / "W")
    assert not (tmp_path / "W").exists() and len(list(tmp_path.iterdir())) == 1
    reference = read_llama2c(version_0(tmp_path / "model.bin", True), tmp_path)
    with pytest.raises(UserError, match=r"--tokenizer=.*: a folder, not a file; name"):
        convert(reference, tmp_path / "W")


def test_stories_read_with_their_tokenizer(data_root: Path) -> None:
    folder = data_root / "weights" / "stories260K"
    reference = read_reference(folder / "stories260K.bin", folder / "tok512.bin")
    assert reference.format == "llama2.c version 0"
    assert sum(int(np.prod(t.shape)) for t in reference.tensors.values()) == 260_032
    tokenizer = reference.tokenizer()
    assert (tokenizer.vocab_size, tokenizer.bos_id) == (512, 1)
