"""Folds of labelled examples: all of them, once each, whatever the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lm.config import (
    ByteTokenizer,
    DataConfig,
    ExampleFiles,
    Fold,
    Roles,
    TextFiles,
    fingerprint,
    from_dict,
    to_dict,
)
from lm.data.examples_read import read_examples
from lm.data.sources import source_fingerprint
from lm.errors import ConfigError, UserError

ROLES = Roles(("text",), (), ("label",))


@pytest.fixture
def source(tmp_path: Path) -> ExampleFiles:
    lines = [f"text {i}\t{i % 2}\n" for i in range(23)]
    (tmp_path / "a.tsv").write_text("".join(lines))
    return ExampleFiles(paths=("a.tsv",), format="tsv", fields={"text": 0, "label": 1})


def config(source: Any, **settings: Any) -> DataConfig:
    return DataConfig({"t": source}, ByteTokenizer(), 8, packing="none", **settings)


def texts(source: Any, root: Path) -> list[str]:
    return [example.values["text"] for example in read_examples(source, ROLES, root)]


def test_every_example_is_held_out_once(source: ExampleFiles, tmp_path: Path) -> None:
    everything = texts(source, tmp_path)
    held_out: list[str] = []
    for index in range(4):
        divided = config(source, fold=Fold(index, 4))
        rest, own = (texts(s, tmp_path) for s in (divided.train["t"], divided.validation["fold"]))
        assert len(own) in (5, 6) and not set(rest) & set(own)
        assert sorted(rest + own) == sorted(everything)
        # In the order of the file.
        assert rest == [text for text in everything if text in rest]
        held_out += own
    assert sorted(held_out) == sorted(everything)
    assert held_out != everything, "parts are drawn by lot"


def test_another_seed_divides_otherwise_and_the_same_likewise(
    source: ExampleFiles, tmp_path: Path
) -> None:
    def own(seed: int) -> list[str]:
        return texts(config(source, fold=Fold(1, 4, seed)).validation["fold"], tmp_path)

    assert own(0) == own(0) != own(1)


def test_a_resolved_config_reads_back_and_stays(source: ExampleFiles) -> None:
    divided = config(source, fold=Fold(0, 3), validation={"dev": source})
    assert list(divided.validation) == ["fold", "dev"]
    assert divided.validation["dev"].fold is None
    assert from_dict(DataConfig, to_dict(divided)) == divided
    again = from_dict(DataConfig, {**to_dict(divided), "fold": {"index": 2, "of": 3}})
    assert again.validation["fold"].fold == Fold(2, 3, held_out=True)
    assert again.train["t"].fold == Fold(2, 3)


def test_what_is_read_has_a_fingerprint_of_its_own(source: ExampleFiles, tmp_path: Path) -> None:
    divided = config(source, fold=Fold(0, 3))
    found = {
        source_fingerprint(s, tmp_path)
        for s in (source, divided.train["t"], divided.validation["fold"])
    }
    assert len(found) == 3 and fingerprint(config(source)) != fingerprint(divided)


def test_what_cannot_be_divided(source: ExampleFiles, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folds 0 to 2, not 3"):
        Fold(3, 3)
    with pytest.raises(ConfigError, match="fold divides labelled examples"):
        config(TextFiles(paths=("a",)), fold=Fold(0, 2))
    both = {"t": source, "u": source}
    with pytest.raises(ConfigError, match="the one source of data.train, which has 2"):
        DataConfig(both, ByteTokenizer(), 8, fold=Fold(0, 2))
    with pytest.raises(UserError, match="23 examples cannot be divided into 24 folds"):
        texts(config(source, fold=Fold(0, 24)).train["t"], tmp_path)


def test_every_part_has_its_share_of_every_label(tmp_path: Path) -> None:
    labels = ["a"] * 9 + ["b"] * 7 + ["c"] * 2
    (tmp_path / "a.tsv").write_text("".join(f"text {i}\t{name}\n" for i, name in enumerate(labels)))
    whole = ExampleFiles(paths=("a.tsv",), format="tsv", fields={"text": 0, "label": 1})
    for seed in range(3):
        sizes, each = [], []
        for index in range(4):
            source = config(whole, fold=Fold(index, 4, seed)).validation["fold"]
            own = [e.values["label"] for e in read_examples(source, ROLES, tmp_path)]
            sizes.append(len(own))
            each.append([own.count(name) for name in "abc"])
        assert sorted(sizes) == [4, 4, 5, 5]
        # By lot alone a part would have none, or five, of a label now and then.
        for counts in zip(*each):
            assert max(counts) - min(counts) <= 1
    # A choice's label is a place, not a class: nothing is divided by it.
    roles = Roles(("text", "choices"), (), ("label",))
    fields = {"text": 0, "choices": 0, "label": 1}
    source = config(whole, fold=Fold(0, 4)).validation["fold"]
    by_lot = ExampleFiles(paths=("a.tsv",), format="tsv", fields=fields, fold=source.fold)
    other = [e.values["text"] for e in read_examples(by_lot, roles, tmp_path)]
    assert other != texts(source, tmp_path)
