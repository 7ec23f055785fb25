"""Datasets of examples: rows in an order by (seed, epoch), and what is too long."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.config import ByteTokenizer, DataConfig, ExampleFiles, Roles, WordsTokenizer
from lm.data.examples import Encoded, ExampleDataset, prepare_examples
from lm.data.examples_read import Example
from lm.data.tokenizer import Tokenizer
from lm.errors import ConfigError, UserError

ROLES = Roles(("text",), (), ("label",))
LENGTH = 6


class Maker:
    """A row for a text, and its number as the label."""

    room = "6 tokens"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, example: Example, *, labelled: bool) -> Encoded:
        ids = self._tokenizer.encode(example.values["text"])
        kept = ids[:LENGTH]
        tokens, positions = np.zeros(LENGTH, np.int32), np.full(LENGTH, -1, np.int32)
        tokens[: len(kept)], positions[: len(kept)] = kept, np.arange(len(kept))
        label = np.array(example.values["label"], np.int32)
        weights = np.array(labelled, np.float32)
        row = {"tokens": tokens, "positions": positions, "labels": label, "weights": weights}
        return Encoded([row] if example.values["text"] != "nothing" else [], len(ids) - len(kept))


def prepare(folder: Path, texts: list[str], seed: int = 0, **settings: Any) -> ExampleDataset:
    lines = (json.dumps({"text": text, "label": n}) + "\n" for n, text in enumerate(texts))
    (folder / "data.jsonl").write_text("".join(lines))
    source = ExampleFiles(paths=("data.jsonl",))
    config = DataConfig(
        **{
            "train": {"mine": source},
            "validation": {"dev": source},
            "tokenizer": ByteTokenizer(),
            "sequence_length": LENGTH,
            "packing": "none",
            **settings,
        }
    )
    return prepare_examples(
        config,
        vocab_size=300,
        roles=lambda source: ROLES,
        make_rows=lambda tokenizer, training: Maker(tokenizer),
        seed=seed,
        data_root=folder,
        cache_dir=folder / "cache",
    )


TEXTS = [f"t{n}" for n in range(11)]


def labels(dataset: ExampleDataset, steps: range, size: int) -> list[int]:
    return [n for step in steps for n in dataset.batch(step, size)["labels"].tolist()]


def test_an_epoch_has_every_example_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    dataset = prepare(tmp_path, TEXTS)
    seen = labels(dataset, range(11), 2)
    first, second = seen[:11], seen[11:]
    assert sorted(first) == sorted(second) == list(range(11))
    assert first != second and first != sorted(first)
    assert labels(prepare(tmp_path, TEXTS), range(11), 2) == seen
    assert labels(prepare(tmp_path, TEXTS, seed=1), range(11), 2) != seen
    # The same rows whatever the batch size; in order without shuffling.
    assert labels(dataset, range(2), 11) == seen
    assert labels(prepare(tmp_path, TEXTS, shuffle=False), range(2), 11) == [*range(11)] * 2


def test_batches_start_at_any_step_and_are_shared_out_over_processes(tmp_path: Path) -> None:
    dataset = prepare(tmp_path, TEXTS)
    batches = dataset.train_batches(3, 4)
    for step in (3, 4, 5):
        found = next(batches)
        for name, values in dataset.batch(step, 4).items():
            np.testing.assert_array_equal(found[name], values)
    halves = [dataset.batch(3, 4, i, 2)["labels"] for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), dataset.batch(3, 4)["labels"])


def test_a_validation_split_has_every_example_in_order_and_padding_of_no_weight(
    tmp_path: Path,
) -> None:
    split = prepare(tmp_path, TEXTS).validation["dev"]
    batches = list(split.batches(4))
    assert [len(batch["labels"]) for batch in batches] == [4, 4, 4]
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    assert joined["labels"].tolist() == [*range(11), 0]
    assert joined["weights"].tolist() == [1.0] * 11 + [0.0]
    assert (joined["positions"][-1] == -1).all()
    assert split.documents == 11 and split.tokens == sum(map(len, TEXTS))


def test_what_is_too_long_is_an_error_cut_or_dropped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["short", "much longer", "longest of all"]
    with pytest.raises(UserError, match=r"2 of 3 examples .* 6 tokens; .* 8 tokens more .*:3\)"):
        prepare(tmp_path, texts)
    cut = prepare(tmp_path, texts, too_long="cut").report["train"]["mine"]
    assert (cut["examples"], cut["examples_cut"], cut["tokens_left_out"]) == (3, 2, 13)
    assert "data.train.mine: 2 of 3 examples are longer than a row and are cut" in (
        capsys.readouterr().err
    )
    dropped = prepare(tmp_path, texts, too_long="drop")
    report = dropped.report["train"]["mine"]
    assert (report["examples"], report["examples_dropped"], report["rows"]) == (1, 2, 1)
    assert [e.values["text"] for e in dropped.sources["validation", "dev"].examples] == ["short"]
    with pytest.raises(UserError, match="none of the 1 examples fits"):
        prepare(tmp_path, texts[1:2], too_long="drop")
    # An example of which nothing is left has no row, whatever is done with the others.
    kept = prepare(tmp_path, ["short", "nothing"], too_long="cut").report["train"]["mine"]
    assert (kept["examples"], kept["examples_dropped"]) == (1, 1)


def test_fingerprints_follow_the_data_and_the_part_of_it(tmp_path: Path) -> None:
    one = prepare(tmp_path, TEXTS)
    assert prepare(tmp_path, TEXTS).fingerprint == one.fingerprint
    assert prepare(tmp_path, [*TEXTS, "x"]).fingerprint != one.fingerprint
    half = {"mine": ExampleFiles(paths=("data.jsonl",), fraction=(0.0, 0.5))}
    assert prepare(tmp_path, TEXTS, train=half).fingerprint != one.fingerprint


def test_a_tokenizer_learns_from_the_inputs_of_the_training_examples(tmp_path: Path) -> None:
    dataset = prepare(tmp_path, ["b a", "a", "a"], tokenizer=WordsTokenizer())
    assert dataset.tokenizer.pieces(range(4, 6)) == ["a", "b"]
    with pytest.raises(ConfigError, match="model's vocab_size is 300"):
        prepare(tmp_path, [str(n) for n in range(400)], tokenizer=WordsTokenizer())
