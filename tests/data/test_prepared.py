"""TFDS datasets, one of which each test prepares as a user would have."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from lm.config import TfdsDataset
from lm.data.sources import documents, source_fingerprint
from lm.errors import ConfigError, UserError


class Reviews(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"review": tfds.features.Text(), "label": tfds.features.Scalar(np.int64)}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(600), "test": self._generate_examples(3)}

    def _generate_examples(self, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in range(count):
            yield number, {"review": f"{number} 春", "label": number}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tfds")
    Reviews(data_dir=path, file_format="array_record").download_and_prepare()
    return path


def read(root: Path, **settings: str) -> list[str]:
    source = TfdsDataset(**{"name": "reviews", "field": "review", **settings})  # type: ignore
    return [document["text"] for document in documents(source, root)]


def test_texts_in_order(root: Path) -> None:
    assert read(root) == [f"{n} 春" for n in range(600)]
    assert read(root, split="train[:1%]") == [f"{n} 春" for n in range(6)]
    assert read(root, split="test", name="reviews:1.0.0") == ["0 春", "1 春", "2 春"]


def test_the_highest_version_by_number(root: Path, tmp_path: Path) -> None:
    for version in ("1.0.0", "9.0.0", "10.0.0"):
        shutil.copytree(root / "reviews" / "1.0.0", tmp_path / "reviews" / version)
    from lm.data.prepared import find

    assert find(TfdsDataset(name="reviews"), tmp_path).name == "10.0.0"
    assert source_fingerprint(TfdsDataset(name="reviews"), tmp_path) == source_fingerprint(
        TfdsDataset(name="reviews"), root
    )


def test_below_the_home_folder(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(root, tmp_path / "tensorflow_datasets")
    assert len(read(tmp_path / "elsewhere", split="test")) == 3


def test_errors(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"no TFDS dataset 'revues' below .*\n.*tfds build"):
        read(root, name="revues")
    with pytest.raises(ConfigError, match="names no dataset"):
        read(root, name="")
    with pytest.raises(UserError, match=r"no split 'tests'; did you mean 'test'\?$"):
        read(root, split="tests")
    with pytest.raises(UserError, match=r"no split 'x1'; known: test, train$"):
        read(root, split="train[:2]+x1[:5%]")
    for slice_ in ("train[90%:10%]", "train[:x]", "train[2:2]"):
        with pytest.raises(UserError, match=r"the slice 'train.* is empty or malformed"):
            read(root, split=slice_)
    for name in ("..", "reviews/../reviews", "/etc"):
        with pytest.raises(ConfigError, match="is no name of a TFDS dataset, but a path"):
            read(root, name=name)
    with pytest.raises(UserError, match=r"record 0 of 'train' has no field 'revue'; did you mean"):
        read(root, field="revue")
    with pytest.raises(UserError, match=r"field 'label' is int, not text"):
        read(root, field="label")
    for config in ("a", "b"):
        shutil.copytree(root / "reviews" / "1.0.0", tmp_path / "reviews" / config / "1.0.0")
    with pytest.raises(ConfigError, match="several configs: name one of reviews/a, reviews/b"):
        read(tmp_path)


def test_a_damaged_file(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "reviews", tmp_path / "reviews")
    (file,) = (tmp_path / "reviews" / "1.0.0").glob("*train.array_record*")
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    file.write_bytes(data)
    with pytest.raises(UserError, match="1.0.0 is damaged .*; prepare it again"):
        read(tmp_path)


def test_another_file_format(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "reviews", tmp_path / "reviews")
    info = tmp_path / "reviews" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="prepared as tfrecord, .*--file_format=array_record"):
        read(tmp_path)
