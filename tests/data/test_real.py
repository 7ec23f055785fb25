"""The whole way on real corpora; skipped where they are not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.config import (
    ByteTokenizer,
    CharacterTokenizer,
    CleanConfig,
    DataConfig,
    Source,
    TextFiles,
    TsvFiles,
)
from lm.data.pipeline import Dataset, prepare_dataset
from lm.data.rows import Aligned
from lm.data.sources import documents


def prepare(example: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    tokens = example["tokens"]
    ones = np.ones(len(tokens) - 1, np.float32)
    return {"tokens": tokens[:-1], "targets": tokens[1:], "weights": ones}


def make(data_root: Path, cache: Path, train: Source, **settings: Any) -> Dataset:
    config = DataConfig(
        **{
            "tokenizer": ByteTokenizer(),
            "sequence_length": 128,
            "train": {"text": train},
            **settings,
        }
    )
    return prepare_dataset(
        config, vocab_size=None, seed=0,
        make_rows=lambda tokenizer: Aligned(prepare, config.sequence_length, lookahead=1),
        data_root=data_root, cache_dir=cache,
    )  # fmt: skip


def need(data_root: Path, name: str) -> None:
    if not (data_root / name).is_file():
        pytest.skip(f"no {data_root / name}")


def test_tinyshakespeare_by_character(data_root: Path, tmp_path: Path) -> None:
    need(data_root, "tinyshakespeare/input.txt")

    def part(begin: float, end: float) -> TextFiles:
        return TextFiles(paths=("tinyshakespeare/input.txt",), fraction=(begin, end))

    data = make(
        data_root, tmp_path, part(0.0, 0.9), validation={"rest": part(0.9, 1.0)},
        tokenizer=CharacterTokenizer(), add_eos=False,
    )  # fmt: skip
    # The split of nanoGPT: 1,003,854 characters to train on and 111,540 to validate.
    assert data.tokenizer.vocab_size == 65
    assert data.report["train"]["text"]["tokens"] == 1_003_854
    assert data.validation["rest"].characters == 111_540
    assert data.rows_per_epoch == 1_003_854 // 128
    whole = (data_root / "tinyshakespeare/input.txt").read_text()
    for row in data.batch(3, 8)["tokens"]:
        assert data.tokenizer.decode(row.tolist()) in whole
    targets = [b["targets"][b["weights"] > 0] for b in data.validation["rest"].batches(64)]
    assert data.tokenizer.decode(np.concatenate(targets).tolist()) == whole[1_003_855:]


def test_chinese_poetry(data_root: Path, tmp_path: Path) -> None:
    need(data_root, "zh_poetry/poems_plain.txt.gz")
    import gzip

    with gzip.open(data_root / "zh_poetry/poems_plain.txt.gz", "rt", encoding="utf-8") as stream:
        lines = [line for line, _ in zip(stream, range(20_000), strict=False)]
    (tmp_path / "poems.txt.gz").write_bytes(gzip.compress("".join(lines).encode()))
    clean = CleanConfig(normalization="NFKC", control_characters="remove", deduplicate=True)
    data = make(
        tmp_path, tmp_path / "cache", packing="first_fit",
        train=TextFiles(paths=("poems.txt.gz",), document="line", clean=clean),
    )  # fmt: skip
    counts = data.report["train"]["text"]["source"]
    assert counts["documents_read"] == 20_000
    assert counts["documents"] + counts["empty"] + counts["duplicates"] == 20_000
    assert counts["characters_normalized"] > 0  # full-width punctuation
    batch = data.batch(0, 16)
    assert (batch["segment_ids"] > 0).mean() > 0.9
    for row in range(16):
        for segment in range(1, batch["segment_ids"][row].max() + 1):
            ids = batch["targets"][row][batch["segment_ids"][row] == segment].tolist()
            poem = bytes(i for i in ids if i < 256).decode("utf-8", errors="ignore")
            assert "\n" not in poem


def test_parallel_text(data_root: Path, tmp_path: Path) -> None:
    need(data_root, "pydocs_en_zh/pydocs_en_zh.tsv.gz")
    data = make(
        data_root, tmp_path, TsvFiles(paths=("pydocs_en_zh/*.tsv.gz",), column=2), segments=True
    )
    counts = data.report["train"]["text"]
    assert counts["source"]["documents_read"] == 52_726
    text = bytes(i for i in data.batch(0, 64)["tokens"].ravel().tolist() if i < 256)
    chinese = sum("\u4e00" <= character <= "\u9fff" for character in text.decode(errors="ignore"))
    assert chinese > 300


def test_english_and_chinese_of_one_file(data_root: Path) -> None:
    source = TsvFiles(paths=("pydocs_en_zh/pydocs_en_zh.tsv.gz",), column=1, target_column=2)
    found = list(documents(source, data_root))
    assert len(found) == 52_726
    assert found[3] == {"text": "Many thanks go to:", "target": "特别鸣谢："}
    assert all(document["text"] and document["target"] for document in found)
