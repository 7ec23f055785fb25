import hashlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.config import BPETokenizer, ByteTokenizer, CharacterTokenizer, DataConfig, TextFiles
from lm.data import pipeline
from lm.data.pipeline import Dataset, prepare_dataset
from lm.data.rows import Aligned
from lm.data.tokenizer import Tokenizer
from lm.errors import ConfigError, UserError

ROOT = Path(__file__).resolve().parents[2]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def prepare(example: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    tokens = example["tokens"]
    ones = np.ones(len(tokens) - 1, np.float32)
    return {
        "tokens": tokens[:-1], "targets": tokens[1:], "weights": ones,
        "noise": rng.random(len(tokens) - 1),
    }  # fmt: skip


def make_rows(tokenizer: Tokenizer, length: int = 16) -> Aligned:
    return Aligned(prepare, length, lookahead=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of one letter each, of 1 to 52 characters, and a file of digits."""
    path = tmp_path_factory.mktemp("data")
    lines = [letter * (1 + 7 * n % 52) for n, letter in enumerate(LETTERS)]
    (path / "letters.txt").write_text("\n".join(lines))
    (path / "digits.txt").write_text("0123456789" * 30)
    return path


SETTINGS: dict[str, Any] = {
    "train": {"letters": TextFiles(paths=("letters.txt",), document="line")},
    "validation": {"digits": TextFiles(paths=("digits.txt",))},
    "tokenizer": ByteTokenizer(),
    "sequence_length": 16,
}


def dataset(
    root: Path, *, seed: int = 0, vocab_size: int | None = None, **settings: Any
) -> Dataset:
    config = DataConfig(**{**SETTINGS, **settings})
    return prepare_dataset(
        config, vocab_size=vocab_size, seed=seed, data_root=root, cache_dir=root / "cache",
        make_rows=lambda tokenizer: make_rows(tokenizer, config.sequence_length),
    )  # fmt: skip


def digest(batches: Any) -> str:
    state = hashlib.sha256()
    for batch in batches:
        for name in sorted(batch):
            state.update(f"{name} {batch[name].dtype} {batch[name].shape}".encode())
            state.update(batch[name].tobytes())
    return state.hexdigest()


def take(data: Dataset, count: int, start: int = 0, *place: int) -> list[dict[str, np.ndarray]]:
    return list(itertools.islice(data.train_batches(start, *(place or (4,))), count))


MIXTURE = {
    "letters": TextFiles(paths=("letters.txt",), document="line", weight=3.0),
    "digits": TextFiles(paths=("digits.txt",), weight=1.0),
}
WAYS: list[dict[str, Any]] = [
    {},
    {"segments": True},
    {"packing": "first_fit"},
    {"packing": "none"},
    {"shuffle": False},
    {"train": MIXTURE},
]


@pytest.mark.parametrize("settings", WAYS)
def test_batches_are_a_function_of_seed_and_step(settings: dict[str, Any], root: Path) -> None:
    data = dataset(root, **settings)
    steps = 3 * data.rows_per_epoch // 4
    batches = take(data, steps)
    assert batches[0]["tokens"].shape == (4, 16)
    # A run resumed at step k, and single batches asked for out of order, are the same.
    for k in (1, steps // 2):
        assert digest(take(data, steps - k, k)) == digest(batches[k:])
    assert digest([data.batch(5, 4), data.batch(2, 4)]) == digest([batches[5], batches[2]])
    assert digest(take(dataset(root, **settings), steps)) == digest(batches)
    other = digest(take(dataset(root, seed=1, **settings), steps))
    assert other != digest(batches)  # the noise differs even where the order does not


@pytest.mark.parametrize("settings", WAYS)
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_same_global_batch(
    settings: dict[str, Any], hosts: int, root: Path
) -> None:
    data = dataset(root, **settings)
    parts = [take(data, 6, 3, 8, host, hosts) for host in range(hosts)]
    joined = [
        {name: np.concatenate([part[step][name] for part in parts]) for name in parts[0][step]}
        for step in range(6)
    ]
    assert parts[0][0]["tokens"].shape == (8 // hosts, 16)
    assert digest(joined) == digest(take(data, 6, 3, 8))


def test_the_same_bytes_in_another_process_without_tensorflow(root: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.util, sys, pathlib\n"
        f"spec = importlib.util.spec_from_file_location('t', {str(Path(__file__))!r})\n"
        "t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t)\n"
        f"data = t.prepare_dataset(t.DataConfig(**{{**t.SETTINGS, 'train': t.MIXTURE}}),\n"
        f"    vocab_size=None, make_rows=t.make_rows, seed=0,\n"
        f"    data_root=pathlib.Path({str(root)!r}), cache_dir=pathlib.Path({str(tmp_path)!r}))\n"
        "print(t.digest(t.take(data, 9, 4)))\n"
        "assert 'tensorflow_datasets' in sys.modules\n"
        "assert not {'tensorflow', 'torch'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "3", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == digest(take(dataset(root, train=MIXTURE), 9, 4))
    # A second start finds everything made: TFDS is not even imported.
    again = code.replace("assert 'tensorflow_datasets' in", "assert 'tensorflow_datasets' not in")
    second = subprocess.run(
        [sys.executable, "-c", again],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (second.returncode, second.stdout) == (0, run.stdout), second.stderr


def test_an_epoch_sees_every_target_once(root: Path) -> None:
    data = dataset(root, segments=True, add_eos=False)
    rows = [data.batch(step, 1) for step in range(data.rows_per_epoch)]
    counts = np.zeros(256, int)
    for row in rows:
        np.add.at(counts, row["targets"][row["weights"] > 0], 1)
        # Every segment is of one letter.
        for segment in range(1, row["segment_ids"].max() + 1):
            assert len(set(row["targets"][row["segment_ids"] == segment])) == 1
    expected = np.array([7 * n % 52 for n in range(52)])
    found = counts[[ord(letter) for letter in LETTERS]]
    assert (found <= expected).all()
    assert (expected - found).sum() == expected.sum() % 16
    assert data.tokens_per_epoch == found.sum()


def test_mixture_proportions_and_epoch(root: Path) -> None:
    data = dataset(root, train=MIXTURE, add_eos=False)
    one = {name: dataset(root, train={name: MIXTURE[name]}, add_eos=False) for name in MIXTURE}
    assert data.rows_per_epoch == sum(part.rows_per_epoch for part in one.values())
    tokens = np.concatenate([b["tokens"] for b in take(data, 50, 0, 8)])
    digits = (tokens < ord("A")).all(axis=1)
    assert abs(digits.mean() - 0.25) < 0.01
    # A source's own rows are those it has alone, whatever it is mixed with.
    alone = np.concatenate([b["tokens"] for b in take(one["digits"], 25, 0, 4)])
    assert (tokens[digits] == alone[: digits.sum()]).all()


def test_a_fraction_of_training_and_the_rest(root: Path) -> None:
    def part(begin: float, end: float) -> TextFiles:
        return TextFiles(paths=("digits.txt",), fraction=(begin, end))

    data = dataset(root, train={"a": part(0.0, 0.9)}, validation={"b": part(0.9, 1.0)})
    assert data.report["train"]["a"]["characters"] == 270
    assert data.validation["b"].characters == 30


def test_validation_reads_the_whole_split_once(root: Path) -> None:
    split = dataset(root).validation["digits"]
    # 300 digits and eos: 300 are predicted.
    assert (split.tokens, split.bytes, split.characters, split.rows) == (300, 300, 300, 19)
    batches = list(split.batches(8))
    assert [b["tokens"].shape for b in batches] == [(8, 16)] * 3
    targets = np.concatenate([b["targets"][b["weights"] > 0] for b in batches])
    assert targets.tolist() == [*("0123456789" * 30).encode()[1:], 258]
    assert digest(split.batches(8)) == digest(batches)
    assert digest(split.batches(8, limit=2)) == digest(batches[:2])
    halves = zip(split.batches(8, None, 0, 2), split.batches(8, None, 1, 2), strict=True)
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in halves]
    assert digest(joined) == digest(batches)


@pytest.mark.parametrize("packing", ["stream", "first_fit", "none"])
def test_validation_with_segments(packing: str, root: Path) -> None:
    lines = {"v": TextFiles(paths=("letters.txt",), document="line")}
    split = dataset(root, validation=lines, packing=packing, segments=True).validation["v"]
    batches = list(split.batches(4))
    total = sum(1 + 7 * n % 52 for n in range(52))
    assert sum(b["weights"].sum() for b in batches) == split.tokens == total
    # 51 first characters are not predicted (one line is empty but for its eos), unless after bos.
    assert split.bytes is None
    bos = dataset(root, validation=lines, packing=packing, segments=True, add_bos=True)
    assert bos.validation["v"].bytes == total
    assert bos.validation["v"].tokens == total + 52
    assert all((b["weights"] == (b["segment_ids"] > 0)).all() for b in batches)


def test_threads_read_ahead_and_end_with_the_iterator(root: Path) -> None:
    before = threading.active_count()
    none = dataset(root, read_threads=0).train_batches(0, 4)
    first = [next(none) for _ in range(9)]
    assert threading.active_count() == before
    batches = dataset(root, read_threads=3).train_batches(0, 4)
    second = [next(batches) for _ in range(9)]
    assert threading.active_count() > before
    batches.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
    assert digest(first) == digest(second)


@pytest.mark.parametrize("at_once", [1, 3])
def test_the_first_batches_are_the_same_whoever_reads_them(root: Path, at_once: int) -> None:
    data = dataset(root)
    batches = data.train_batches(2, 4, at_once=at_once)
    found = [next(batches) for _ in range(6)]
    assert digest(found) == digest(take(data, 6, 2))


def test_the_fingerprint_follows_data_and_tokenizer(root: Path) -> None:
    first = dataset(root).fingerprint
    assert dataset(root, sequence_length=8, seed=4).fingerprint == first
    other = {"letters": TextFiles(paths=("letters.txt",), document="line", fraction=(0.0, 0.5))}
    changed = [
        dataset(root, train=other).fingerprint,
        dataset(root, add_eos=False).fingerprint,
        dataset(root, add_bos=True).fingerprint,
        dataset(root, train=MIXTURE).fingerprint,
    ]
    assert len({first, *changed}) == 5


def test_each_validation_split_has_a_fingerprint_of_data_and_tokenizer(root: Path) -> None:
    def of(*names: str, **settings: Any) -> dict[str, str]:
        sources = {name: TextFiles(paths=(f"{name}.txt",)) for name in names}
        return dataset(root, validation=sources, **settings).validation_fingerprints

    both = of("letters", "digits")
    assert set(both) == {"letters", "digits"} and len(set(both.values())) == 2
    assert of("digits") == {"digits": both["digits"]}
    assert of("digits", sequence_length=8, seed=3) == of("digits")
    assert of("digits", tokenizer=BPETokenizer(vocab_size=260)) != of("digits")
    assert of("digits", add_bos=True) != of("digits")
    assert of() == {}


def test_a_source_read_over_and_over_is_reported(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = dataset(root, train=MIXTURE)
    passes = {name: part["passes_per_epoch"] for name, part in data.report["train"].items()}
    rows = {name: part["rows"] for name, part in data.report["train"].items()}
    assert rows["letters"] * passes["letters"] == pytest.approx(
        0.75 * data.rows_per_epoch, rel=0.01
    )
    assert rows["digits"] * passes["digits"] == pytest.approx(0.25 * data.rows_per_epoch, rel=0.01)
    assert capsys.readouterr().err == ""
    tiny = {**MIXTURE, "digits": TextFiles(paths=("digits.txt",), fraction=(0.0, 0.06))}
    dataset(root, train=tiny)
    assert "note: data.train.digits: an epoch of the mixture reads it 22 times (it has 1 of " in (
        capsys.readouterr().err
    )


def test_errors_keep_their_class_and_a_stop_its_message(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class HeldError(UserError):
        def __init__(self, one: str, two: str) -> None:
            super().__init__(f"{one} {two}")
            self.exit_code = 75 if one == "stopped" else 1

    def raising(one: str) -> Any:
        def document_store(*arguments: Any) -> None:
            raise HeldError(one, "early")

        return document_store

    monkeypatch.setattr(pipeline, "document_store", raising("damaged"))
    with pytest.raises(HeldError, match=r"^data\.train\.letters: damaged early$"):
        dataset(root)
    monkeypatch.setattr(pipeline, "document_store", raising("stopped"))
    with pytest.raises(HeldError, match="^stopped early$"):
        dataset(root)


def test_the_report_is_json_and_counts(root: Path) -> None:
    report = json.loads(json.dumps(dataset(root).report))
    letters = report["train"]["letters"]
    total = sum(1 + 7 * n % 52 for n in range(52))
    assert (letters["documents"], letters["characters"]) == (52, total)
    assert letters["tokens"] == total + 52  # with eos
    assert letters["positions"] + letters["positions_left_out_per_epoch"] == total + 52
    assert letters["rows"] == report["rows_per_epoch"] == (total + 52) // 16
    assert letters["source"]["documents_read"] == 52


def test_tokenizers_are_trained_on_the_training_sources_or_given(root: Path) -> None:
    settings = {**SETTINGS, "tokenizer": CharacterTokenizer(), "add_eos": False, "validation": {}}

    def make(tokenizer: Tokenizer | None) -> Dataset:
        return prepare_dataset(
            DataConfig(**settings), vocab_size=64, make_rows=make_rows, seed=0,
            data_root=root, cache_dir=root / "cache", tokenizer=tokenizer,
        )  # fmt: skip

    trained = make(None)
    assert trained.tokenizer.vocab_size == 52
    assert make(trained.tokenizer).fingerprint == trained.fingerprint
    given = dataset(root).tokenizer
    with pytest.raises(ConfigError, match="has 259 tokens"):
        make(given)


def test_errors(root: Path) -> None:
    data = dataset(root)
    with pytest.raises(ConfigError, match="batch size 6 is not divisible by the 4 processes"):
        data.train_batches(0, 6, 1, 4)
    with pytest.raises(ConfigError, match="batch size 6 is not divisible by the 4 processes"):
        next(data.validation["digits"].batches(6, None, 1, 4))
    with pytest.raises(ConfigError, match="batch size must be at least 1, not 0"):
        data.train_batches(0, 0)
    with pytest.raises(
        ConfigError, match="has 259 tokens, the model's vocab_size is 65: set model.v"
    ):
        dataset(root, vocab_size=65)
    missing = {"books": TextFiles(paths=("books/*.txt",))}
    with pytest.raises(UserError, match=r"^data\.train\.books: no file matches 'books/\*.txt'"):
        dataset(root, train=missing)
    with pytest.raises(UserError, match=r"^data\.validation\.books: no file matches"):
        dataset(root, validation=missing)
    with pytest.raises(
        UserError, match=r"^data\.train\.letters: too little text: 1\d+ tokens in 52 "
    ):
        dataset(root, sequence_length=4096)
    with pytest.raises(ConfigError, match=r"^data\.train\.books: the source names no files"):
        dataset(root, train={"books": TextFiles()})


class Pair:
    """A maker of rows of 6 tokens and 8 of the target."""

    positions, lookahead, room = 14, 0, "6 tokens and 8"
    packed = capacity = None

    def fit(self, texts: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.minimum(texts, 6), np.minimum(targets, 8)

    def __call__(
        self, pieces: list[np.ndarray], rng: np.random.Generator, *, joined: bool, other: Any
    ) -> dict[str, np.ndarray]:
        text, target = pieces
        assert not joined
        return {"text": np.resize(text[:6], 6), "target": np.resize(target[:8], 8)}


def paired(root: Path, too_long: Any, *, maker: Any = None, **settings: Any) -> Dataset:
    texts = {"a.en": "one\nfour\ntwelve\nI", "a.de": "eins\nvier\nzwölf\nich"}
    for name, text in texts.items():
        (root / name).write_text(text)
    source = TextFiles(paths=("a.en",), target_paths=("a.de",), document="line")
    given: dict[str, Any] = {"train": {"a": source}, "validation": {"a": source}, "packing": "none"}
    given |= {"tokenizer": ByteTokenizer(), "too_long": too_long, **settings}
    config = DataConfig(sequence_length=14, **given)
    return prepare_dataset(
        config, vocab_size=None, seed=0, data_root=root, cache_dir=root / "cache",
        make_rows=lambda tokenizer: maker or Pair(),
    )  # fmt: skip


@pytest.mark.parametrize(("too_long", "rows"), [("cut", 4), ("drop", 3)])
def test_pairs_of_texts(
    too_long: str, rows: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = paired(tmp_path, too_long)
    what = "cut" if too_long == "cut" else "dropped"
    notes = capsys.readouterr().err
    for split in ("train", "validation"):
        # With its end, "twelve" has 7 tokens.
        note = f"note: data.{split}.a: 1 of 4 pairs are longer than a row and are {what} (data.too"
        assert note in notes
        report = data.report[split]["a"]
        assert report["rows"] == rows and report["documents"] == 4
        assert report["pairs_cut"] + report["pairs_dropped"] == 1 == report[f"pairs_{what}"]
    (batch,) = data.validation["a"].batches(rows)
    assert data.validation["a"].bytes is None
    assert paired(tmp_path, too_long, add_bos=True).validation["a"].bytes is None
    assert bytes(batch["text"][0][:3].astype(np.uint8)) == b"one"
    assert bytes(batch["target"][1][:4].astype(np.uint8)) == b"vier"
    drawn = data.batch(0, rows)["text"]
    assert sorted(drawn[:, 0].tolist()) == sorted(batch["text"][:, 0].tolist())


def test_pairs_that_are_too_long_are_an_error_that_names_the_source(tmp_path: Path) -> None:
    message = r"data.train.a: 1 of 4 pairs do not fit a row, which holds 6 tokens and 8; .* 7 tok"
    with pytest.raises(UserError, match=message):
        paired(tmp_path, "error")


def test_pairs_and_makers_that_do_not_go_together(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data.train.a: the source has targets"):
        paired(tmp_path, "cut", maker=make_rows(ByteTokenizer()))  # type: ignore[arg-type]
    plain = {"a": TextFiles(paths=("a.en",), document="line")}
    with pytest.raises(ConfigError, match="data.train.a: the objective takes pairs of texts"):
        paired(tmp_path, "cut", train=plain)


def test_a_tokenizer_is_trained_on_both_texts(tmp_path: Path) -> None:
    data = paired(tmp_path, "cut", tokenizer=CharacterTokenizer(), add_eos=False)
    pieces = data.tokenizer.pieces(range(data.tokenizer.vocab_size))
    assert set(pieces) == set("onefourtwelveIeinsvierzwölfich")
