"""Checkpoints become workdirs: every tensor accounted for, whole or not at all, within bounds."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import lm
from lm.config import ByteTokenizer, CausalLM, Config, from_dict
from lm.convert import accounting, incoming, store
from lm.convert.accounting import parameter_shapes
from lm.convert.incoming import convert, read_reference
from lm.convert.tensors import Reference
from lm.data.tokenizers.simple import Bytes
from lm.errors import UserError
from lm.train.checkpoint import Checkpoints
from lm.train.integrity import damage_of
from lm.train.workdir import load_run, read_config
from tests.convert.files import (
    GPT2,
    LLAMA,
    flat,
    gpt2_shapes,
    llama_shapes,
    random_tensors,
    tokenizer,
    write_folder,
    write_large,
    write_shards,
)

ROOT = Path(__file__).resolve().parents[2]
SHAPES = llama_shapes(LLAMA)
TENSORS = random_tensors(SHAPES)
QUERY = "model.layers.1.self_attn.q_proj.weight"


def come_in(folder: Path, workdir: Path, tokenizer_path: Path | None = None) -> incoming.Conversion:
    return convert(read_reference(folder, tokenizer_path), workdir)


def refused(tmp_path: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> str:
    """The message with which a folder is refused; nothing is left of the attempt."""
    folder = write_folder(tmp_path / "folder", config, tensors)
    with pytest.raises(UserError) as caught:
        come_in(folder, tmp_path / "W")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    return str(caught.value)


def test_a_folder_becomes_a_workdir_that_needs_nothing_else(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", LLAMA, TENSORS)
    done = come_in(folder, tmp_path / "W")
    assert (done.family, done.tensors, done.ignored) == ("llama", len(TENSORS), ())
    assert done.parameters == sum(array.size for array in TENSORS.values())
    moved = tmp_path / "elsewhere"
    (tmp_path / "W").rename(moved)
    run = load_run(moved)
    assert isinstance(run.config.objective, CausalLM) and run.step == 0
    assert run.config.data.sequence_length == 64 and not run.config.data.train
    assert run.tokenizer.vocab_size == tokenizer().vocab_size
    params = dict(flat(run.params))
    assert {n: a.shape for n, a in params.items()} == parameter_shapes(run.config.model)
    assert {a.dtype for a in params.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(
        params["layer_1/attention/query/kernel"],
        TENSORS[QUERY].reshape(4, 4, 16).transpose(2, 0, 1),
    )
    np.testing.assert_array_equal(params["lm_head/kernel"], TENSORS["lm_head.weight"].T)


def test_the_model_runs(tmp_path: Path) -> None:
    come_in(
        write_folder(tmp_path / "folder", GPT2, random_tensors(gpt2_shapes(GPT2))), tmp_path / "W"
    )
    run = load_run(tmp_path / "W")
    logits, _ = run.model.apply({"params": run.params}, jnp.asarray([[1, 2, 3]]))
    assert logits.shape == (1, 3, 300) and np.isfinite(logits).all()


def test_the_checkpoint_is_an_ordinary_one(tmp_path: Path) -> None:
    come_in(write_folder(tmp_path / "folder", LLAMA, TENSORS), tmp_path / "W")
    checkpoints = Checkpoints(tmp_path / "W" / "checkpoints")
    assert checkpoints.steps() == [0]
    assert damage_of(tmp_path / "W" / "checkpoints" / "0") is None
    assert (tmp_path / "W" / "checkpoints" / "0" / "checksums.json").is_file()
    restored = checkpoints.restore_parts(("params", "opt_state", "ema"))
    assert restored.state["opt_state"] is None and restored.state["ema"] is None
    assert restored.data == {} and restored.meta == {"evaluation": {}}


def test_where_it_is_from_is_written_down(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", {**LLAMA, "unheard_of": [1]})
    write_shards(folder, TENSORS, 2)
    come_in(folder, tmp_path / "W")
    origin = json.loads((tmp_path / "W" / "convert.json").read_text())
    assert origin["from"] == str(folder) and origin["format"] == "huggingface"
    assert origin["family"] == "llama" and origin["lm_version"] == lm.__version__
    assert origin["config"] == {**LLAMA, "unheard_of": [1]}
    assert origin["files"].keys() == {
        "config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }
    for name, entry in origin["files"].items():
        content = (folder / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_precisions_become_float32_exactly(tmp_path: Path, dtype: Any) -> None:
    tensors = random_tensors(SHAPES, dtype)
    come_in(write_folder(tmp_path / "folder", LLAMA, tensors), tmp_path / "W")
    params = dict(flat(load_run(tmp_path / "W").params))
    expected = tensors["model.layers.0.mlp.down_proj.weight"].T.astype(np.float32)
    np.testing.assert_array_equal(params["layer_0/mlp/down/kernel"], expected, strict=True)


def test_numbers_beyond_float32_are_refused(tmp_path: Path) -> None:
    tensors = random_tensors(SHAPES, np.float64)
    tensors[QUERY][2, 3] = 1e200
    message = refused(tmp_path, LLAMA, tensors)
    assert f"tensor '{QUERY}' has numbers beyond float32" in message


# ---------------------------------------------------------------------- every tensor accounted for


def test_a_missing_tensor_is_named_with_its_shape(tmp_path: Path) -> None:
    tensors = {name: array for name, array in TENSORS.items() if name != QUERY}
    message = refused(tmp_path, LLAMA, tensors)
    assert f"  {QUERY}: missing; the config says [16, 16] (for layer_1/attention/query" in message
    assert "model_type 'llama'" in message


def test_a_leftover_tensor_is_named_with_its_shape(tmp_path: Path) -> None:
    message = refused(tmp_path, LLAMA, {**TENSORS, "model.layers.1.adapter": np.ones((2, 3))})
    assert "  model.layers.1.adapter: left over, [2, 3]; the model has no place for it" in message


def test_another_shape_is_named_with_both(tmp_path: Path) -> None:
    message = refused(tmp_path, LLAMA, {**TENSORS, QUERY: np.ones((16, 8), np.float32)})
    assert f"  {QUERY}: is [16, 8], the config says [16, 16]" in message


def test_integers_are_no_weights(tmp_path: Path) -> None:
    message = refused(tmp_path, LLAMA, {**TENSORS, QUERY: np.ones((16, 16), np.int64)})
    assert f"  {QUERY}: is of int64, which no weight is" in message


def test_the_first_of_many_are_listed(tmp_path: Path) -> None:
    message = refused(tmp_path, {**LLAMA, "hidden_size": 32}, TENSORS)
    assert message.count("the config says") == 8
    assert re.search(r"\.\.\. and \d+ more", message)


def test_tied_weights_that_are_there_twice_must_be_equal(tmp_path: Path) -> None:
    config = {**LLAMA, "tie_word_embeddings": True}
    table = TENSORS["model.embed_tokens.weight"]
    folder = write_folder(tmp_path / "same", config, {**TENSORS, "lm_head.weight": table})
    done = come_in(folder, tmp_path / "same_W")
    assert done.parameters == sum(a.size for a in TENSORS.values()) - table.size
    (tmp_path / "other").mkdir()
    other = table.copy()
    other[7, 3] += 1e-6
    message = refused(tmp_path / "other", config, {**TENSORS, "lm_head.weight": other})
    assert "lm_head.weight: differs from model.embed_tokens.weight, which it is tied to" in message


def test_buffers_are_left_out_and_said_to_be(tmp_path: Path) -> None:
    tensors = random_tensors(gpt2_shapes(GPT2))
    buffer = "transformer.h.0.attn.bias"
    mask = np.tril(np.ones((1, 1, 32, 32), np.float32))
    done = come_in(
        write_folder(tmp_path / "folder", GPT2, {**tensors, buffer: mask}), tmp_path / "W"
    )
    assert done.ignored == (buffer,)
    assert json.loads((tmp_path / "W" / "convert.json").read_text())["ignored"] == [buffer]


def test_a_plan_that_does_not_cover_the_model_is_no_users_error() -> None:
    with pytest.raises(ValueError, match="disagree on: a/kernel"):
        accounting.check_covers([], {"a/kernel": (1,)})


# ----------------------------------------------------------------------------- whole or not at all


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    config = {**LLAMA, "vocab_size": 100}
    message = refused(tmp_path, config, random_tensors(llama_shapes(config)))
    assert "has 280 tokens, the model 100: is it another model's?" in message


def test_a_tokenizer_from_elsewhere_wraps_texts_as_the_family_does(tmp_path: Path) -> None:
    """vocab.txt alone, and a tokenizer.json that says itself; T5's eos, GPT-2's nothing."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox"]
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(words))

    def flags(model_type: str, path: Path) -> dict[str, bool]:
        reference = Reference(
            path=tmp_path, format="x", config={"model_type": model_type}, tensors={},
            tokenizer=dict, wraps=dict, files=(), metadata={},
        )  # fmt: skip
        return incoming._with_tokenizer(reference, path).wraps()

    assert flags("bert", vocab) == {"add_bos": True, "add_eos": True}
    assert flags("t5", vocab) == {"add_bos": False, "add_eos": True}
    assert flags("llama", vocab) == {"add_bos": True, "add_eos": False}
    assert flags("gpt2", vocab) == {"add_bos": False, "add_eos": False}
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "vocab.txt").write_text(vocab.read_text())
    assert flags("bert", tmp_path / "alone") == {"add_bos": True, "add_eos": True}
    byte = Bytes()
    byte.save(tmp_path / "own")
    assert flags("t5", tmp_path / "own") == {"add_bos": False, "add_eos": True}


def test_a_folder_without_tokenizer_needs_one_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", LLAMA, TENSORS)
    tokenizer().save(tmp_path / "mine")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer: .*; one elsewhere is named with --tok"):
        come_in(folder, tmp_path / "W")
    assert not (tmp_path / "W").exists()
    come_in(folder, tmp_path / "W", tmp_path / "mine")
    assert load_run(tmp_path / "W").tokenizer.fingerprint == tokenizer().fingerprint


def test_what_is_in_the_workdir_stays(tmp_path: Path) -> None:
    folder, workdir = write_folder(tmp_path / "folder", LLAMA, TENSORS), tmp_path / "W"
    come_in(folder, workdir)
    with pytest.raises(UserError, match="holds a converted model already: name a new folder"):
        come_in(folder, workdir)
    (workdir / "convert.json").unlink()
    with pytest.raises(UserError, match="holds a run already: name a new folder"):
        come_in(folder, workdir)
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty: name a new folder"):
        come_in(folder, other)
    with pytest.raises(UserError, match=r"is a file, not a folder"):
        come_in(folder, other / "notes.txt")
    assert (other / "notes.txt").read_text() == "mine"


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    (tmp_path / "W").mkdir()
    come_in(write_folder(tmp_path / "folder", LLAMA, TENSORS), tmp_path / "W")
    assert read_config(tmp_path / "W").model.d_model == 16


def test_a_conversion_that_fails_half_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "folder", LLAMA, TENSORS)
    reference = read_reference(folder)
    (folder / "model.safetensors").write_bytes(b"cut while it was read")
    with pytest.raises(UserError, match=r"model\.safetensors changed while it was read"):
        convert(reference, tmp_path / "W")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]

    write_folder(tmp_path / "folder", LLAMA, TENSORS)

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_checksums", full)
    with pytest.raises(UserError, match="disk full while writing a checkpoint"):
        come_in(folder, tmp_path / "W")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing", None, "there is no such folder or file"),
        ("model.safetensors", b"x", "name the folder that also has config.json"),
        ("model.pt", b"PK\x03\x04", "is a pickle: a pickle can run any code"),
        ("pytorch_model.bin", b"\x80\x02}q\x00.", "is a pickle: a pickle can run any code"),
        ("model.txt", b"words", "expected a Hugging Face folder, a .gguf file or llama2.c's .bin"),
        ("model.gguf", b"words", "does not begin with GGUF"),
        ("model.bin", b"", "is truncated"),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        read_reference(path)
    assert str(path) in str(caught.value)


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    message = refused(tmp_path, {**LLAMA, "model_type": "rwkv"}, TENSORS)
    assert "model_type='rwkv' is not supported; supported: " in message


def test_a_config_without_training_data_is_one_for_use_only() -> None:
    values = {
        "model": {**from_dict_model()},
        "data": {"train": {}, "tokenizer": {"kind": "byte"}, "sequence_length": 8},
        "train": {"batch_size": 1, "duration": {"steps": 1}},
        "objective": None,
    }
    config = from_dict(Config, values)
    assert config.objective is None and config.data.tokenizer == ByteTokenizer()


def from_dict_model() -> dict[str, Any]:
    sizes = {"vocab_size": 259, "num_layers": 1, "d_model": 8, "num_heads": 2, "d_ff": 8}
    return {**sizes, "position": {"kind": "rotary"}}


# ------------------------------------------------------------------------------------------- memory


def peak_memory(folder: Path, workdir: Path) -> int:
    """Bytes at the most of a whole `lm convert`, JAX and Python included."""
    program = (
        "import sys\n"
        "from lm.bench.worker import peak_memory\n"
        "from lm.cli.main import main\n"
        "status = main(sys.argv[1:])\n"
        # Not getrusage's: where that is Linux's, it counts this process, which the other comes of.
        "print(peak_memory(), file=sys.stderr)\n"
        "sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "convert", f"--from={folder}", f"--workdir={workdir}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stderr.splitlines()[-1])


def large(width: int, layers: int) -> dict[str, Any]:
    sizes = {
        "hidden_size": width,
        "intermediate_size": 11 * width // 4,
        "num_hidden_layers": layers,
    }
    return {**LLAMA, **sizes, "num_attention_heads": 16, "num_key_value_heads": 16}


def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path) -> None:
    """160 MB of bfloat16 (320 MB of float32) take hardly more than 16 MB do."""
    peaks = []
    for layers in (1, 10):
        folder = write_folder(tmp_path / f"{layers}", large(832, layers))
        size = write_large(folder / "model.safetensors", large(832, layers), ml_dtypes.bfloat16)
        peaks.append(peak_memory(folder, tmp_path / f"W{layers}"))
    assert size > 160e6
    assert peaks[1] - peaks[0] < 80e6, peaks


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "layers"), [(ml_dtypes.bfloat16, 10), (np.float32, 5)])
def test_a_gigabyte_converts_in_less_than_one_and_a_half(
    tmp_path: Path, dtype: Any, layers: int
) -> None:
    folder = write_folder(tmp_path / "folder", large(2048, layers))
    assert write_large(folder / "model.safetensors", large(2048, layers), dtype) > 1e9
    peak = peak_memory(folder, tmp_path / "W")
    print(f"peak memory: {peak / 1e9:.3f} GB")
    assert peak < 0.9e9
