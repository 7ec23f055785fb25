import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from lm.config import BPETokenizer, ByteTokenizer, TextFiles
from lm.data.cache import build_folder
from lm.data.store import document_store
from lm.data.tokenizer import build_tokenizer, load_tokenizer
from lm.data.tokens import token_store
from lm.errors import UserError


def test_of_two_processes_the_first_to_finish_wins(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "key"

    def build(partial: Path) -> None:
        (partial / "value").write_text("second")
        folder.mkdir()
        (folder / "value").write_text("first")

    build_folder(folder, build)
    assert (folder / "value").read_text() == "first"
    assert [path.name for path in folder.parent.iterdir()] == ["key"]


def test_others_may_read_it_as_far_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        build_folder(tmp_path / "key", lambda partial: None)
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o750


def test_everything_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()

    def build(partial: Path) -> None:
        (partial / "deep").mkdir()
        (partial / "deep" / "a").write_text("a")
        (partial / "b").write_text("b")

    monkeypatch.setattr(os, "fsync", lambda file: synced.add(os.fstat(file).st_ino))
    rename = os.rename

    def checked(old: Path, new: Path) -> None:
        assert synced == {path.stat().st_ino for path in [old, *Path(old).rglob("*")]}
        rename(old, new)

    monkeypatch.setattr(os, "rename", checked)
    build_folder(tmp_path / "key", build)
    assert len(synced) == 4


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a file")
    with pytest.raises(UserError, match="cannot write the cache .*LM_CACHE"):
        build_folder(tmp_path / "key", lambda partial: None)
    (tmp_path / "tokenizers").write_text("a file")
    with pytest.raises(UserError, match="cannot write the cache .*tokenizers: .*LM_CACHE"):
        build_tokenizer(
            BPETokenizer(vocab_size=257), data_root=tmp_path, cache_dir=tmp_path,
            texts=lambda: iter(["text"]),
        )  # fmt: skip


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow past 3 KB: writing fails in the system, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def text_of(size: int, root: Path) -> TextFiles:
    (root / "a.txt").write_text("".join(chr(33 + n * n % 89) for n in range(size)))
    return TextFiles(paths=("a.txt",))


def test_no_space_for_documents(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source = text_of(50_000, tmp_path)
    request.getfixturevalue("full_disk")
    with pytest.raises(UserError, match=f"no space left for the cache {tmp_path}/documents; .*LM_"):
        document_store(source, tmp_path, tmp_path)
    assert list((tmp_path / "documents").iterdir()) == []


def test_no_space_for_tokens(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    documents = document_store(text_of(50_000, tmp_path), tmp_path, tmp_path)
    tokenizer = build_tokenizer(ByteTokenizer(), data_root=tmp_path, cache_dir=tmp_path)
    request.getfixturevalue("full_disk")
    with pytest.raises(UserError, match=f"no space left for the cache {tmp_path}/tokens; .*LM_"):
        token_store(
            documents, (0.0, 1.0), tokenizer, add_bos=False, add_eos=False, cache_dir=tmp_path,
            name="a",
        )  # fmt: skip
    assert list((tmp_path / "tokens").iterdir()) == []


@pytest.mark.usefixtures("full_disk")
def test_no_space_for_a_trained_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no space left for the cache {tmp_path}/tokenizers; .*LM"):
        build_tokenizer(
            BPETokenizer(vocab_size=257), data_root=tmp_path, cache_dir=tmp_path,
            texts=lambda: iter(["text"]),
        )  # fmt: skip
    assert list((tmp_path / "tokenizers").iterdir()) == []


def test_no_space_to_save_a_tokenizer(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    byte = build_tokenizer(ByteTokenizer(), data_root=tmp_path, cache_dir=tmp_path)
    bpe = build_tokenizer(
        BPETokenizer(vocab_size=257), data_root=tmp_path, cache_dir=tmp_path,
        texts=lambda: iter(["text"]),
    )  # fmt: skip
    byte.save(tmp_path / "run" / "old")
    request.getfixturevalue("full_disk")
    for name in ("old", "new"):
        folder = tmp_path / "run" / name
        with pytest.raises(UserError, match=f"cannot write the tokenizer to {folder}: File too la"):
            bpe.save(folder)
    assert load_tokenizer(tmp_path / "run" / "old").kind == "byte"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["old"]
