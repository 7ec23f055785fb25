from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lm.config import ByteTokenizer, CharacterTokenizer, TextFiles, TsvFiles
from lm.data import tokens
from lm.data.store import DocumentStore, document_store
from lm.data.tokenizer import Tokenizer, build_tokenizer
from lm.data.tokenizers.base import cut
from lm.data.tokens import TokenStore, token_store
from lm.errors import ConfigError, UserError

LINES = ["one", "春天", "three and more", "4"]


@pytest.fixture
def documents(tmp_path: Path) -> DocumentStore:
    (tmp_path / "a.txt").write_text("\n".join(LINES), "utf-8")
    source = TextFiles(paths=("a.txt",), document="line")
    return document_store(source, tmp_path, tmp_path / "cache")


def byte_tokenizer(tmp_path: Path) -> Tokenizer:
    return build_tokenizer(ByteTokenizer(), data_root=tmp_path, cache_dir=tmp_path / "cache")


def make(
    documents: DocumentStore, tokenizer: Tokenizer, root: Path, **settings: object
) -> TokenStore:
    settings = {
        "fraction": (0.0, 1.0), "add_bos": False, "add_eos": False, "name": "lines", **settings
    }  # fmt: skip
    return token_store(documents, tokenizer=tokenizer, cache_dir=root / "cache", **settings)  # type: ignore


def test_tokens_offsets_bytes(documents: DocumentStore, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(tmp_path)
    store = make(documents, tokenizer, tmp_path, add_bos=True, add_eos=True)
    assert store.tokens.dtype == np.uint16
    for number, line in enumerate(LINES):
        ids = store.tokens[store.offsets[number] : store.offsets[number + 1]].tolist()
        assert ids == [tokenizer.bos_id, *line.encode(), tokenizer.eos_id]
    assert store.bytes.tolist() == [len(line.encode()) for line in LINES]
    assert store.lengths.tolist() == [len(line.encode()) + 2 for line in LINES]
    assert store.report() == {"documents": 4, "characters": 20, "bytes": 24, "tokens": 32}


def test_large_vocabularies_take_four_bytes(documents: DocumentStore, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(tmp_path)

    class Large:
        vocab_size, bos_id, eos_id, fingerprint = 70_000, None, 69_999, "large"
        encode_batch = staticmethod(tokenizer.encode_batch)

    store = make(documents, Large(), tmp_path, add_eos=True)  # type: ignore[arg-type]
    assert store.tokens.dtype == np.uint32
    assert store.tokens[-2:].tolist() == [ord("4"), 69_999]


def test_every_setting_has_its_own_store_and_equal_ones_share(
    documents: DocumentStore, tmp_path: Path
) -> None:
    tokenizer = byte_tokenizer(tmp_path)
    settings: list[dict[str, object]] = [
        {}, {"add_bos": True}, {"add_eos": True}, {"fraction": (0.0, 0.5)}, {"fraction": (0.5, 1.0)}
    ]  # fmt: skip
    stores = [make(documents, tokenizer, tmp_path, **setting) for setting in settings]
    assert len({store.fingerprint for store in stores}) == len(settings)

    class NeverCalled:
        vocab_size, bos_id, eos_id = 259, 257, 258
        fingerprint = tokenizer.fingerprint

    again = make(documents, NeverCalled(), tmp_path)  # type: ignore[arg-type]
    assert again.tokens.tolist() == stores[0].tokens.tolist()
    assert stores[3].tokens.tolist() + stores[4].tokens.tolist() == stores[0].tokens.tolist()


def test_cut_off_while_tokenising(documents: DocumentStore, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(tmp_path)

    class CutOff:
        vocab_size, bos_id, eos_id = 259, 257, 258
        fingerprint = tokenizer.fingerprint

        def encode_batch(self, texts: list[str]) -> list[list[int]]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(documents, CutOff(), tmp_path)  # type: ignore[arg-type]
    assert list((tmp_path / "cache" / "tokens").iterdir()) == []
    assert len(make(documents, tokenizer, tmp_path)) == 4


def test_a_store_cut_short_says_to_delete_it(documents: DocumentStore, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(tmp_path)
    make(documents, tokenizer, tmp_path)
    (tokens,) = (tmp_path / "cache" / "tokens").glob("*/tokens.bin")
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"damaged \(23 tokens, not 24\): delete that folder"):
        make(documents, tokenizer, tmp_path)


@pytest.mark.parametrize("name", ["tokens.bin", "offsets.npy", "bytes.npy"])
def test_contents_changed_on_the_disk(name: str, documents: DocumentStore, tmp_path: Path) -> None:
    make(documents, byte_tokenizer(tmp_path), tmp_path)
    (path,) = (tmp_path / "cache" / "tokens").glob(f"*/{name}")
    data = path.read_bytes()
    path.write_bytes(data[:-16] + bytes(8) + data[-8:])
    with pytest.raises(UserError, match=r"damaged \(its contents are not those .*: delete that f"):
        make(documents, byte_tokenizer(tmp_path), tmp_path)


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", None])
@pytest.mark.parametrize("name", ["report.json", "tokens.bin", "offsets.npy", "bytes.npy"])
def test_a_damaged_store(
    name: str, damage: bytes | None, documents: DocumentStore, tmp_path: Path
) -> None:
    make(documents, byte_tokenizer(tmp_path), tmp_path)
    (path,) = (tmp_path / "cache" / "tokens").glob(f"*/{name}")
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(UserError, match=r"is damaged \(.+\): delete that folder"):
        make(documents, byte_tokenizer(tmp_path), tmp_path)


def test_long_documents_are_encoded_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["short", "x", "a long one, 春天 and on\n" * 9, "y\n", "z" * 99]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text)
    documents = document_store(TextFiles(paths=("?.txt",)), tmp_path, tmp_path / "cache")
    tokenizer = byte_tokenizer(tmp_path)
    whole = make(documents, tokenizer, tmp_path, add_eos=True)
    lengths: list[int] = []

    class Watched:
        kind, vocab_size, bos_id, eos_id, fingerprint = "byte", 259, 257, 258, "watched"

        def encode_batch(self, batch: list[str]) -> list[list[int]]:
            lengths.append(sum(map(len, batch)))
            return tokenizer.encode_batch(batch)

        def encode_to_array(self, text: str) -> np.ndarray:
            lengths.append(len(text))
            return tokenizer.encode_to_array(text)

        def parts(self, text: str) -> Iterator[str]:
            return cut(text, 10)

    monkeypatch.setattr(tokens, "_BATCH_CHARACTERS", 10)
    store = make(documents, Watched(), tmp_path, add_eos=True)  # type: ignore[arg-type]
    assert max(lengths) == 10
    assert store.tokens.tolist() == whole.tokens.tolist()
    assert store.offsets.tolist() == whole.offsets.tolist()
    monkeypatch.setattr(tokens, "_LONGEST", 9)
    with pytest.raises(
        UserError, match="'lines' has a document of 10 characters in one piece, .* 9"
    ):
        make(documents, Watched(), tmp_path)  # type: ignore[arg-type]


def test_errors(documents: DocumentStore, tmp_path: Path) -> None:
    characters = build_tokenizer(
        CharacterTokenizer(), data_root=tmp_path, cache_dir=tmp_path / "cache",
        texts=lambda: iter(LINES), texts_fingerprint="lines",
    )  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"add_eos=True, but .*no eos token: set data.add_eos=False"
    ):
        make(documents, characters, tmp_path, add_eos=True)
    with pytest.raises(
        ConfigError, match=r"add_bos=True, but .*no bos token: set data.add_bos=False"
    ):
        make(documents, characters, tmp_path, add_bos=True)
    assert len(make(documents, characters, tmp_path)) == 4
    with pytest.raises(
        UserError, match=r"'lines' is empty in its fraction .* 20 characters in all"
    ):
        make(documents, byte_tokenizer(tmp_path), tmp_path, fraction=(0.0, 0.01))


def test_targets_stand_beside_their_texts(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("one\t春天\nfour\t5\n")
    source = TsvFiles(paths=("a.tsv",), column=0, target_column=1)
    documents = document_store(source, tmp_path, tmp_path / "cache")
    assert list(tokens.texts(documents, (0.0, 1.0))) == ["one", "春天", "four", "5"]
    store = make(documents, byte_tokenizer(tmp_path), tmp_path, add_bos=True, add_eos=True)
    assert store.fields == ["text", "target"] and len(store) == 2
    for number, text in enumerate(["one", "春天", "four", "5"]):
        ids = store.tokens[store.offsets[number] : store.offsets[number + 1]].tolist()
        assert ids == [257, *text.encode(), 258]
    assert store.report() == {
        "documents": 2, "characters": 10, "bytes": 14, "tokens": 22, "target_tokens": 11
    }  # fmt: skip
