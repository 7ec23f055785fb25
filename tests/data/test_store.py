import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.config import CleanConfig, TextFiles
from lm.data import store
from lm.data.store import DocumentStore, document_store
from lm.errors import UserError

LINES = ["first line", "", "second 春天", "first line", "third\x00", "the fourth and longest line"]
SOURCE = TextFiles(paths=("a.txt",), document="line", clean=CleanConfig("none", "remove", True))
KEPT = ["first line", "second 春天", "third", "the fourth and longest line"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("\n".join(LINES), "utf-8")
    return tmp_path / "data"


def texts(documents: DocumentStore, *fraction: float) -> list[str]:
    return [document["text"] for document in documents.slice(*fraction)]


def test_what_went_in_comes_out_in_order_with_its_counts(root: Path, tmp_path: Path) -> None:
    documents = document_store(SOURCE, root, tmp_path / "cache")
    assert texts(documents, 0.0, 1.0) == KEPT
    assert documents.report["documents_read"] == 6
    assert documents.report["documents"] == 4
    assert documents.report["duplicates"] == documents.report["empty"] == 1
    assert documents.report["characters"] == len("".join(KEPT))
    assert documents.report["bytes"] == len("".join(KEPT).encode())


@pytest.mark.parametrize("cut", [0.0001, 0.1, 1 / 3, 0.5, 0.9, 0.9999])
def test_two_fractions_are_the_whole(cut: float, root: Path, tmp_path: Path) -> None:
    documents = document_store(SOURCE, root, tmp_path / "cache")
    first, second = texts(documents, 0.0, cut), texts(documents, cut, 1.0)
    whole = "".join(KEPT)
    assert "".join(first) + "".join(second) == whole
    assert len("".join(first)) == int(cut * len(whole))
    # At most the one document on the boundary is cut.
    assert len(first) + len(second) in (4, 5)


def test_fractions_in_the_middle_and_in_one_document(root: Path, tmp_path: Path) -> None:
    documents = document_store(SOURCE, root, tmp_path / "cache")
    whole = "".join(KEPT)
    assert texts(documents, 0.6, 0.7) == [whole[int(0.6 * len(whole)) : int(0.7 * len(whole))]]
    edges = [0.0, 0.2, 0.21, 0.55, 0.8, 1.0]
    parts = [texts(documents, *edge) for edge in zip(edges, edges[1:], strict=False)]
    assert "".join("".join(part) for part in parts) == whole


def test_written_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = document_store(SOURCE, root, tmp_path / "cache")

    def no_reading(*arguments: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(store, "documents", no_reading)
    again = document_store(
        TextFiles(**{**vars(SOURCE), "weight": 2.0, "fraction": (0.1, 0.2)}),
        root,
        tmp_path / "cache",
    )
    assert again.folder == first.folder
    (root / "a.txt").write_text("other text")
    with pytest.raises(AssertionError, match="read again"):
        document_store(SOURCE, root, tmp_path / "cache")


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError("disk full"), UserError("bad line")]
)
def test_a_build_cut_off_in_the_middle_leaves_nothing(
    error: BaseException, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*arguments: object) -> Iterator[dict[str, str]]:
        yield {"text": "first"}
        yield {"text": "second"}
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(store, "documents", cut_off)
        with pytest.raises(type(error), match=f"^{error}$"):
            document_store(SOURCE, root, tmp_path / "cache")
    assert list((tmp_path / "cache" / "documents").iterdir()) == []
    assert texts(document_store(SOURCE, root, tmp_path / "cache"), 0.0, 1.0) == KEPT


def test_what_a_killed_process_left_is_not_read(root: Path, tmp_path: Path) -> None:
    """SIGKILL runs no clean-up: the half-made folder stays, under a name that is never opened."""
    whole = document_store(SOURCE, root, tmp_path / "cache")
    left = whole.folder.parent / f".{whole.folder.name}-killed"
    os.rename(whole.folder, left)
    (left / "report.json").unlink()
    assert texts(document_store(SOURCE, root, tmp_path / "cache"), 0.0, 1.0) == KEPT
    assert left.exists()  # it could be another process's, still at work
    shutil.rmtree(whole.folder)
    os.utime(left, (time.time() - 90_000,) * 2)
    document_store(SOURCE, root, tmp_path / "cache")
    assert not left.exists()


def test_nothing_left_by_cleaning(root: Path, tmp_path: Path) -> None:
    (root / "a.txt").write_text("\x00\x01\n\x02")
    with pytest.raises(UserError, match=r"source is empty: cleaning left no document of a\.txt"):
        document_store(SOURCE, root, tmp_path / "cache")


def test_a_cache_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="cannot write the cache .*set LM_CACHE to a folder"):
        document_store(SOURCE, root, tmp_path / "cache")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    # Not further on, where the format pads with zeros.
    data[4000] ^= 1
    path.write_bytes(data)


DAMAGE: list[tuple[str, Callable[[Path], object]]] = [
    *(("report.json", lambda path, text=text: path.write_text(text)) for text in ("{", "[]", "{}")),
    ("report.json", Path.unlink),
    ("ends.npy", lambda path: path.write_bytes(b"")),
    ("ends.npy", lambda path: np.save(path, np.arange(5))),
    ("documents", shutil.rmtree),
    ("documents/dataset_info.json", lambda path: path.write_text("{")),
    ("documents/*record*", Path.unlink),
    ("documents/*record*", lambda path: path.write_bytes(path.read_bytes()[:-100])),
    ("documents/*record*", lambda path: path.write_bytes(bytes(path.stat().st_size))),
    ("documents/*record*", flip),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE)
def test_a_damaged_store_says_to_delete_it(
    name: str, damage: Callable[[Path], object], root: Path, tmp_path: Path
) -> None:
    (root / "a.txt").write_text("\n".join(f"line {n} of many" for n in range(999)))
    folder = document_store(SOURCE, root, tmp_path / "cache").folder
    (path,) = folder.glob(name)
    damage(path)
    with pytest.raises(UserError, match=f"{folder} is damaged .*: delete that folder"):
        texts(document_store(SOURCE, root, tmp_path / "cache"), 0.0, 1.0)


def test_documents_are_written_as_they_come_in_several_files(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way a builder of TFDS writes sorts what is past this size on disk, with TensorFlow."""
    monkeypatch.setattr("tensorflow_datasets.core.shuffle.MAX_MEM_BUFFER_SIZE", 1000)
    monkeypatch.setattr(store, "_SHARD", 300)
    monkeypatch.setattr(store, "_BATCH", 70)
    monkeypatch.setattr(store, "_CHARACTERS", 500)
    lines = [f"line {n} of many" for n in range(999)]
    (root / "a.txt").write_text("\n".join(lines))
    documents = document_store(SOURCE, root, tmp_path / "cache")
    assert texts(documents, 0.0, 1.0) == lines
    assert len(list(documents.folder.glob("documents/*array_record*"))) == 4


def test_a_part_is_read_without_what_is_before_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"line {n} of many"[:12] for n in range(100, 900)]
    (root / "a.txt").write_text("\n".join(lines))
    documents = document_store(SOURCE, root, tmp_path / "cache")
    asked: list[int] = []
    open_split = store.prepared.open_split

    class Counted:
        def __init__(self, *place: Any) -> None:
            self.records = open_split(*place)

        def __len__(self) -> int:
            return len(self.records)

        def __getitems__(self, numbers: list[int]) -> Any:
            asked.extend(numbers)
            return self.records.__getitems__(numbers)

    monkeypatch.setattr(store.prepared, "open_split", Counted)
    assert texts(documents, 0.5, 0.51) == lines[400:408]
    assert asked == list(range(400, 408))
    assert texts(documents, 0.00001, 0.00002) == []


@pytest.mark.parametrize(
    ("records", "characters"), [(2048, 1 << 22), (3, 1 << 22), (9, 40), (9, 1)]
)
def test_reading_at_once_is_bounded(
    records: int, characters: int, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["x" * (1 + n * n % 41) for n in range(60)]
    (root / "a.txt").write_text("\n".join(lines))
    source = TextFiles(paths=("a.txt",), document="line")
    documents = document_store(source, root, tmp_path / "cache")
    calls: list[list[int]] = []
    open_split = store.prepared.open_split

    def counted(*place: Any) -> Any:
        opened = open_split(*place)
        get = opened.__getitems__
        opened.__getitems__ = lambda numbers: calls.append(numbers) or get(numbers)
        return opened

    monkeypatch.setattr(store.prepared, "open_split", counted)
    monkeypatch.setattr(store, "_RECORDS", records)
    monkeypatch.setattr(store, "_CHARACTERS", characters)
    assert texts(documents, 0.0, 1.0) == lines
    assert [n for call in calls for n in call] == list(range(60))
    for call in calls:
        assert len(call) <= records
        assert len(call) == 1 or sum(len(lines[n]) for n in call) <= characters
    if records == 2048:
        assert len(calls) == 1


def test_a_file_that_grows_while_it_is_read_is_not_cached(root: Path, tmp_path: Path) -> None:
    (root / "b.txt").write_text("second file")
    source = TextFiles(paths=("a.txt", "b.txt"), document="line")
    read = store.documents

    def growing(*arguments: Any) -> Iterator[dict[str, str]]:
        for number, document in enumerate(read(*arguments)):
            if number == 2:
                with open(root / "b.txt", "a") as stream:
                    stream.write(" and more")
            yield document

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "documents", growing)
        with pytest.raises(UserError, match=r"b\.txt changed while it was read; start again"):
            document_store(source, root, tmp_path / "cache")
    assert list((tmp_path / "cache" / "documents").iterdir()) == []
    assert "second file and more" in texts(document_store(source, root, tmp_path / "cache"), 0, 1)


def test_a_document_too_long_for_the_format(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_LONGEST", 12)
    with pytest.raises(UserError, match="document 4 has 27 characters, .* 12: use document='line'"):
        document_store(SOURCE, root, tmp_path / "cache")


def test_nothing_is_said_on_stdout(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    document_store(SOURCE, root, tmp_path / "cache")
    assert capfd.readouterr().out == ""


def test_pairs_are_whole_wherever_a_fraction_ends(root: Path, tmp_path: Path) -> None:
    """Each is of the part in which it begins, and cleaning is of both."""
    (root / "a.en").write_text("one\n\ntwo\x00 and more\none\nfour")
    (root / "a.de").write_text("eins\nzwei\nzwei und mehr\neins\nvier")
    clean = CleanConfig("none", "remove", True)
    source = TextFiles(paths=("a.en",), target_paths=("a.de",), document="line", clean=clean)
    documents = document_store(source, root, tmp_path / "cache")
    whole = [
        {"text": "one", "target": "eins"},
        {"text": "two and more", "target": "zwei und mehr"},
        {"text": "four", "target": "vier"},
    ]
    assert list(documents.slice(0.0, 1.0)) == whole and documents.fields == ["text", "target"]
    assert documents.report["empty"] == documents.report["duplicates"] == 1
    assert documents.report["control_characters_removed"] == 1
    total, begins = 40, (0, 7, 32)
    assert documents.report["characters"] == total
    for cut in range(1, total):
        at = (cut + 0.5) / total
        first, second = list(documents.slice(0.0, at)), list(documents.slice(at, 1.0))
        assert first + second == whole and len(first) == sum(begin < cut for begin in begins)
    assert list(documents.slice(0.21, 0.79)) == []
