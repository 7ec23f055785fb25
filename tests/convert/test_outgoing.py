"""Workdirs become Hugging Face folders: the same tensors again, in shards, narrowed with care."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tokenizers import Tokenizer

from lm.config import (
    CausalLM,
    Classification,
    Config,
    DataConfig,
    Duration,
    ModelConfig,
    TrainConfig,
    from_dict,
)
from lm.convert.accounting import parameter_shapes
from lm.convert.families import FAMILIES
from lm.convert.folder import read_folder
from lm.convert.incoming import convert, read_reference
from lm.convert.outgoing import export, narrowed, parse_size
from lm.convert.tokenizer import tokenizer_config
from lm.data.examples_read import Example
from lm.errors import ConfigError, UserError
from lm.train.checkpoint import Checkpoints
from lm.train.restoring import nested
from lm.train.workdir import load_run, write_config
from tests.convert.files import (
    GPT2,
    LLAMA,
    gpt2_shapes,
    llama_shapes,
    random_tensors,
    tokenizer,
    write_folder,
)
from tests.export.runs import ENCODER, make_run

CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "llama": (LLAMA, llama_shapes),
    "gpt2": (GPT2, gpt2_shapes),
    "qwen2": (
        {**LLAMA, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
        llama_shapes,
    ),
}


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """A workdir made of a Llama folder."""
    return make(tmp_path, *CASES["llama"])


def make(tmp_path: Path, config: dict[str, Any], shapes: Any, dtype: Any = np.float32) -> Path:
    folder = write_folder(tmp_path / "folder", config, random_tensors(shapes(config), dtype))
    convert(read_reference(folder), tmp_path / "W")
    return tmp_path / "W"


def values_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_in_and_out_gives_the_same_tensors(tmp_path: Path, case: str) -> None:
    config, shapes = CASES[case]
    done = export(make(tmp_path, config, shapes), tmp_path / "out")
    expected = random_tensors(shapes(config))
    assert done.tensors == len(expected)
    assert done.num_bytes == sum(array.nbytes for array in expected.values())
    found = read_folder(tmp_path / "out").tensors
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name].read(), array, strict=True, err_msg=name)
    values = values_of(tmp_path / "out")
    changed = {key for key in config if values.get(key) != config[key]}
    assert not changed, {key: (config[key], values.get(key)) for key in changed}
    assert values["torch_dtype"] == values["dtype"] == "float32"


def test_out_and_in_again_is_the_same_model(tmp_path: Path, converted: Path) -> None:
    export(converted, tmp_path / "out")
    convert(read_reference(tmp_path / "out"), tmp_path / "V")
    one, other = load_run(converted), load_run(tmp_path / "V")
    assert one.config == other.config
    text = "the quick brown fox"
    assert one.tokenizer.encode(text) == other.tokenizer.encode(text)


def test_bfloat16_in_is_bfloat16_out_bit_for_bit(tmp_path: Path) -> None:
    workdir = make(tmp_path, *CASES["llama"], ml_dtypes.bfloat16)
    export(workdir, tmp_path / "out", dtype="bfloat16")
    expected = random_tensors(llama_shapes(LLAMA), ml_dtypes.bfloat16)
    for name, tensor in read_folder(tmp_path / "out").tensors.items():
        np.testing.assert_array_equal(tensor.read(), expected[name], strict=True)
    assert values_of(tmp_path / "out")["torch_dtype"] == "bfloat16"


def test_keys_that_lm_does_not_model_survive_and_those_it_does_win(tmp_path: Path) -> None:
    config = {**LLAMA, "transformers_version": "4.0", "eos_token_id": [0, 7], "dtype": "float64"}
    workdir = make(tmp_path, config, llama_shapes)
    stored = json.loads((workdir / "config.json").read_text())
    stored["config"]["model"]["norm"]["epsilon"] = 1e-3
    (workdir / "config.json").write_text(json.dumps(stored))
    export(workdir, tmp_path / "out")
    values = values_of(tmp_path / "out")
    assert values["transformers_version"] == "4.0" and values["eos_token_id"] == [0, 7]
    assert values["rms_norm_eps"] == 1e-3 and values["dtype"] == "float32"
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [0, 7]


def test_the_names_of_labels_survive_while_their_number_does(tmp_path: Path) -> None:
    def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        found = {k: v for k, v in llama_shapes(config).items() if k != "lm_head.weight"}
        return {**found, "score.weight": (3, config["hidden_size"])}

    labels = {"id2label": {"0": "bad", "1": "fair", "2": "good"}}
    labels["label2id"] = {name: int(i) for i, name in labels["id2label"].items()}
    classes = ["LlamaForSequenceClassification"]
    config = {**LLAMA, **labels, "architectures": classes, "pad_token_id": 0}
    workdir = make(tmp_path, config, shapes)
    export(workdir, tmp_path / "out")
    assert values_of(tmp_path / "out")["id2label"] == labels["id2label"]
    stored = json.loads((workdir / "config.json").read_text())
    stored["config"]["model"]["heads"][0]["num_labels"] = 2
    (workdir / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"classification/kernel: checkpoint \(\d+, 3\), config"):
        export(workdir, tmp_path / "other")


def test_the_task_names_the_labels(tmp_path: Path) -> None:
    """Of a run that was trained here; the import keeps them."""

    def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        found = {k: v for k, v in llama_shapes(config).items() if k != "lm_head.weight"}
        return {**found, "score.weight": (2, config["hidden_size"])}

    classes = ["LlamaForSequenceClassification"]
    workdir = make(tmp_path, {**LLAMA, "architectures": classes, "pad_token_id": 0}, shapes)
    stored = json.loads((workdir / "config.json").read_text())
    stored["config"]["data"]["packing"] = "none"
    for several in (False, True):
        stored["config"]["objective"] = {
            "kind": "classification", "labels": ["bad", "good"], "multi_label": several
        }  # fmt: skip
        (workdir / "config.json").write_text(json.dumps(stored))
        export(workdir, tmp_path / f"out-{several}")
        values = values_of(tmp_path / f"out-{several}")
        assert values["id2label"] == {"0": "bad", "1": "good"}
        assert values["label2id"] == {"bad": 0, "good": 1}
        many = "multi" if several else "single"
        assert values["problem_type"] == f"{many}_label_classification"
    again = tmp_path / "again"
    convert(read_reference(tmp_path / "out-True"), again)
    export(again, tmp_path / "once-more")
    assert values_of(tmp_path / "once-more") == values_of(tmp_path / "out-True")


@pytest.mark.parametrize("separators", [1, 2])
def test_an_encoder_s_task_has_its_tokens_around_texts(tmp_path: Path, separators: int) -> None:
    """Whatever data.add_bos and data.add_eos say, as rows were in training."""
    task = Classification(labels=("a", "b"), separators=separators)
    workdir = make_run(tmp_path / "W", ENCODER, task)
    export(workdir, tmp_path / "out")
    run: Any = load_run(workdir)
    backend = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    maker = run.objective.example_maker(run.tokenizer, run.config.data)
    for texts in (("a cat",), ("a cat", "why")):
        example = Example(dict(zip(("text", "text_pair"), texts)), "here")
        [row] = maker(example, labelled=False).rows
        encoded = backend.encode(*texts)
        count = len(encoded.ids)
        assert encoded.ids == row["tokens"][:count].tolist()
        assert encoded.type_ids == row["token_types"][:count].tolist()
        assert np.all(row["positions"][count:] == -1) and row["positions"][count - 1] >= 0


def test_a_folder_whose_tokenizer_transformers_would_replace_is_noted(tmp_path: Path) -> None:
    """Not the folder's own tokenizer, which is Qwen's; another one, given to the same model."""
    config, shapes = CASES["qwen2"]
    own = make(tmp_path / "own", config, shapes)
    assert not export(own, tmp_path / "own_out").notes
    tokenizer().save(tmp_path / "mine")
    given = tmp_path / "given"
    convert(read_reference(tmp_path / "own" / "folder", tmp_path / "mine"), given)
    [note] = export(given, tmp_path / "given_out").notes
    assert "qwen2" in note and "PreTrainedTokenizerFast" in note
    llama = make(tmp_path / "llama", *CASES["llama"])
    assert not export(llama, tmp_path / "llama_out").notes


def test_shards_hold_at_most_their_size_and_are_indexed(tmp_path: Path, converted: Path) -> None:
    done = export(converted, tmp_path / "out", shard_size="8KB")
    files = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(files) > 3 and files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == done.num_bytes
    sizes: dict[str, list[int]] = {}
    reference = read_folder(tmp_path / "out")
    for name, tensor in reference.tensors.items():
        sizes.setdefault(index["weight_map"][name], []).append(tensor.num_bytes)
    assert all(sum(part) <= 8000 or len(part) == 1 for part in sizes.values())
    assert sum(map(sum, sizes.values())) == done.num_bytes
    expected = random_tensors(llama_shapes(LLAMA))
    for name, tensor in reference.tensors.items():
        np.testing.assert_array_equal(tensor.read(), expected[name])


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1.5 MB", 1_500_000), ("10kb", 10_000), ("77", 77)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "five", "-1GB", "0", "3XB", "1e999GB", "nanB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="--shard_size=.*: write a size such as 5GB"):
        parse_size(text)


def test_numbers_beyond_the_range_are_refused_by_name(tmp_path: Path) -> None:
    tensors = random_tensors(llama_shapes(LLAMA))
    tensors["model.norm.weight"][3] = 70000.0
    convert(read_reference(write_folder(tmp_path / "folder", LLAMA, tensors)), tmp_path / "W")
    with pytest.raises(UserError) as caught:
        export(tmp_path / "W", tmp_path / "out", dtype="float16")
    assert str(caught.value) == (
        "model.norm.weight has 1 numbers beyond float16's range (up to 7e+04): "
        "use --dtype=bfloat16 or float32"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["W", "folder"]
    export(tmp_path / "W", tmp_path / "out", dtype="bfloat16")


def test_infinities_that_were_there_stay() -> None:
    array = np.asarray([np.inf, np.nan, -1.0], np.float32)
    np.testing.assert_array_equal(narrowed(array, np.dtype(np.float16), "x"), array)


def test_what_is_in_the_folder_stays(tmp_path: Path, converted: Path) -> None:
    folder = tmp_path / "folder"
    before = (folder / "config.json").read_text()
    with pytest.raises(UserError, match="is not empty: name a new folder"):
        export(converted, folder)
    with pytest.raises(UserError, match="is a file, not a folder"):
        export(converted, folder / "config.json")
    assert (folder / "config.json").read_text() == before
    (tmp_path / "empty").mkdir()
    export(converted, tmp_path / "empty")


def test_families(tmp_path: Path, converted: Path) -> None:
    with pytest.raises(ConfigError, match="no family is called 'lama'; did you mean 'llama'"):
        export(converted, tmp_path / "out", family="lama")
    with pytest.raises(ConfigError, match="gpt2"):
        export(converted, tmp_path / "out", family="gpt2")
    assert not (tmp_path / "out").exists()
    assert export(converted, tmp_path / "out", family="llama").family == "llama"


# --------------------------------------------------------------- of trained runs


@functools.cache
def trained_config() -> Config:
    sizes = {"vocab_size": 280, "num_layers": 2, "d_model": 16, "num_heads": 4, "d_ff": 24}
    switches = {"attention_bias": False, "attention_output_bias": False, "mlp_bias": False}
    kinds = {"position": {"kind": "rotary"}, "norm": {"kind": "rms"}, "activation": "swiglu"}
    return Config(
        model=from_dict(ModelConfig, {**sizes, **switches, **kinds}),
        data=DataConfig(
            train={}, tokenizer=tokenizer_config(tokenizer(), None), sequence_length=48
        ),
        train=TrainConfig(batch_size=8, duration=Duration(steps=4), ema_decay=0.9),
        objective=CausalLM(),
    )


def trained(workdir: Path) -> dict[str, dict[str, np.ndarray]]:
    """A run with checkpoints of steps 2 and 4, and a moving average; its averages by step."""
    config = trained_config()
    workdir.mkdir()
    write_config(workdir, config)
    tokenizer().save(workdir / "tokenizer")
    checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint)
    averages = {}
    for step in (2, 4):
        shapes = parameter_shapes(config.model)
        params, averages[str(step)] = (random_tensors(shapes, seed=step + i) for i in (0, 10))
        state = {"step": np.asarray(step), "params": nested(params)}
        state["ema"] = nested(averages[str(step)])
        checkpoints.save(step, state, {}, {"evaluation": {}})
    checkpoints.close()
    return averages


def test_a_trained_run_gives_its_average_of_the_step(tmp_path: Path) -> None:
    averages = trained(tmp_path / "run")
    for step, folder in ((None, "newest"), (2, "second")):
        done = export(tmp_path / "run", tmp_path / folder, step=step)
        expected = averages[str(done.step)]
        assert (done.step, done.family) == (step or 4, "llama")
        found = read_folder(tmp_path / folder).tensors
        np.testing.assert_array_equal(
            found["model.layers.1.mlp.up_proj.weight"].read(), expected["layer_1/mlp/up/kernel"].T
        )
    values = values_of(tmp_path / "newest")
    assert values["max_position_embeddings"] == 48
    assert values["eos_token_id"] == tokenizer().eos_id
    with pytest.raises(UserError, match="no checkpoint of step 3 in .*; there are: 2, 4"):
        export(tmp_path / "run", tmp_path / "third", step=3)


def test_a_trained_run_comes_back(tmp_path: Path) -> None:
    averages = trained(tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out")
    convert(read_reference(tmp_path / "out"), tmp_path / "again")
    again = load_run(tmp_path / "again")
    model = dataclasses.replace(again.config.model, init=trained_config().model.init)
    assert model == trained_config().model
    kernel = again.params["layer_0"]["attention"]["query"]["kernel"]
    np.testing.assert_array_equal(kernel, averages["4"]["layer_0/attention/query/kernel"])


def test_damage_is_found_before_anything_is_written(tmp_path: Path, converted: Path) -> None:
    [data, *_] = (converted / "checkpoints" / "0" / "state").rglob("d/*")
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match="is damaged"):
        export(converted, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run in "):
        export(tmp_path, tmp_path / "out")


def test_every_family_is_registered_once() -> None:
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names) and {"llama", "gpt2"} <= set(names)
