"""`lm tokenizer`: one pass through real processes, the rest in this one."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest

from lm.cli.main import main
from lm.data.tokenizer import load_tokenizer

TEXT = "She sells sea shells by the sea shore. 她在海边卖贝壳。\n" * 20


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text(TEXT, encoding="utf-8")
    (folder / "b.txt.gz").write_bytes(gzip.compress(b"low lower lowest \xf0\x9f\x99\x82\r\n" * 9))
    return folder


@pytest.fixture
def byte_tokenizer(tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    output = tmp_path / "byte"
    train(corpus, output, "--kind=byte")
    capsys.readouterr()
    return output


def train(corpus: Path, output: Path, *flags: str) -> int:
    inputs = [f"--input={corpus}/*.txt", f"--input={corpus}/*.gz"]
    return main(["tokenizer", "train", *inputs, f"--output={output}", *flags])


def give_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))


def test_train_encode_decode_in_processes(run_lm, corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "bpe"
    done = run_lm(
        "tokenizer", "train", f"--input={corpus}/*", "--kind=bpe", "--vocab_size=300",
        f"--output={output}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["kind"], summary["vocab_size"]) == ("bpe", 300)
    assert summary["fingerprint"] == load_tokenizer(output).fingerprint
    assert 1.5 < summary["bytes_per_token"] < 10

    text = "sea 海🙂  shells"
    encoded = run_lm("tokenizer", "encode", f"--tokenizer={output}", text)
    ids = json.loads(encoded.stdout)
    assert ids == load_tokenizer(output).encode(text)
    decoded = run_lm("tokenizer", "decode", f"--tokenizer={output}", *map(str, ids))
    assert decoded.stdout == text + "\n"


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("byte", []),
        ("character", []),
        ("bpe", ["--vocab_size=300"]),
        ("wordpiece", ["--vocab_size=55", "--nolowercase"]),
        ("sentencepiece", ["--vocab_size=300", "--model_type=bpe"]),
    ],
)
def test_every_kind_trains(
    kind: str,
    flags: list[str],
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    assert train(corpus, output, f"--kind={kind}", *flags) == 0
    summary = json.loads(capsys.readouterr().out)
    tokenizer = load_tokenizer(output)
    texts = [TEXT, "low lower lowest 🙂\r\n" * 9]
    tokens = sum(map(len, tokenizer.encode_batch(texts)))
    size = sum(len(t.encode()) for t in texts)
    assert summary == {
        "kind": kind,
        "vocab_size": tokenizer.vocab_size,
        "fingerprint": tokenizer.fingerprint,
        "bytes_per_token": round(size / tokens, 4),
    }
    if kind == "wordpiece":
        assert "She" in tokenizer.decode(tokenizer.encode("She"))


def test_output_is_not_overwritten_unasked(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert train(corpus, output, "--kind=character") == 0
    before = load_tokenizer(output).fingerprint
    assert train(corpus, output, "--kind=byte") == 1
    assert "has a tokenizer already; --overwrite replaces it" in capsys.readouterr().err
    assert load_tokenizer(output).fingerprint == before
    assert train(corpus, output, "--kind=byte", "--overwrite") == 0
    assert [p.name for p in output.iterdir()] == ["lm_tokenizer.json"]
    # Not even with --overwrite: these are not a tokenizer's files.
    assert train(corpus, corpus, "--kind=byte", "--overwrite") == 1
    assert "is not empty and holds no tokenizer" in capsys.readouterr().err
    assert train(corpus, corpus / "a.txt", "--kind=byte") == 1
    assert "is a file, not a folder" in capsys.readouterr().err
    assert (corpus / "a.txt").read_text(encoding="utf-8") == TEXT


def test_a_failed_training_leaves_the_old_tokenizer(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert train(corpus, output, "--kind=byte") == 0
    assert train(corpus, output, "--kind=bpe", "--vocab_size=90000", "--overwrite") == 2
    assert load_tokenizer(output).kind == "byte"


def test_standard_input_whole_and_by_lines(
    byte_tokenizer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = f"--tokenizer={byte_tokenizer}"
    give_input(monkeypatch, "é\nb\n".encode())
    assert main(["tokenizer", "encode", flag]) == 0
    assert json.loads(capsys.readouterr().out) == [0xC3, 0xA9, 10, 98, 10]
    give_input(monkeypatch, b"a\n\nb\n")
    assert main(["tokenizer", "encode", flag, "--lines"]) == 0
    assert capsys.readouterr().out == "[97]\n[]\n[98]\n"
    give_input(monkeypatch, b"[72, 105]\n[33]\n")
    assert main(["tokenizer", "decode", flag, "--lines"]) == 0
    assert capsys.readouterr().out == "Hi\n!\n"
    give_input(monkeypatch, b"72,105\n33")
    assert main(["tokenizer", "decode", flag]) == 0
    assert capsys.readouterr().out == "Hi!\n"


def test_lines_end_as_they_do_in_files(
    byte_tokenizer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give_input(monkeypatch, b"a\r\n\r\nb\r\n")
    assert main(["tokenizer", "encode", f"--tokenizer={byte_tokenizer}", "--lines"]) == 0
    assert capsys.readouterr().out == "[97]\n[]\n[98]\n"


def test_a_comma_in_a_name(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "c,d.txt").write_text("ab")
    arguments = ["tokenizer", "train", "--kind=character", f"--output={tmp_path}/out"]
    assert main([*arguments, f"--input={corpus}/c,d.txt"]) == 0
    assert load_tokenizer(tmp_path / "out").vocab_size == 2
    assert main([*arguments, f"--input={corpus}/a.txt,{corpus}/b.txt.gz"]) == 1
    assert "no file matches" in (error := capsys.readouterr().err)
    assert "; give --input once for each" in error


def test_a_text_that_begins_with_a_dash(
    byte_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the examples say."""
    assert main(["tokenizer", "encode", f"--tokenizer={byte_tokenizer}", "--", "--a"]) == 0
    assert capsys.readouterr().out == "[45, 45, 97]\n"


def test_output_that_cannot_be_made_is_said_before_training(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def training(*arguments: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr("lm.data.tokenizer.train_tokenizer", training)
    assert train(corpus, corpus / "a.txt" / "out", "--kind=byte") == 1
    assert f"--output: cannot make {corpus}/a.txt/out: Not a directory" in capsys.readouterr().err
    with pytest.raises(AssertionError, match="trained"):
        train(corpus, tmp_path / "out", "--kind=byte")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["x.jsonl", "x.tsv.gz", "x.json"])
def test_files_of_which_the_syntax_would_be_learned(
    name: str, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / name).write_text("{}")
    arguments = ["--kind=byte", f"--output={corpus}/out", f"--input={corpus}/x*"]
    assert main(["tokenizer", "train", *arguments]) == 1
    assert f"{name} is not plain text" in (error := capsys.readouterr().err)
    assert "`lm train` trains a tokenizer" in error


def test_a_folder_as_input(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--kind=byte", f"--output={corpus}/out", f"--input={corpus}"]
    assert main(["tokenizer", "train", *arguments]) == 1
    assert f"--input: {corpus} is a folder; name the files in it" in capsys.readouterr().err


def test_pieces(byte_tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenizer", "encode", f"--tokenizer={byte_tokenizer}", "--pieces", "aé"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == [[97, "a"], [0xC3, "<0xC3>"], [0xA9, "<0xA9>"]]


def test_gpt2_folder(data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flag = f"--tokenizer={data_root / 'tokenizers' / 'gpt2'}"
    assert main(["tokenizer", "encode", flag, "Hello world"]) == 0
    assert capsys.readouterr().out == "[15496, 995]\n"
    assert main(["tokenizer", "decode", flag, "[15496, 995]"]) == 0
    assert capsys.readouterr().out == "Hello world\n"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "what to do? lm tokenizer train|encode|decode"),
        (["decod"], 2, "no action 'decod'; did you mean 'decode'?"),
        (["train", "--output=x"], 2, "which text? give files: --input="),
        (["train", "--input=x"], 2, "where to? give a folder: --output=DIR"),
        (["train", "x.txt"], 2, "unexpected argument 'x.txt'; text files are given by --input"),
        (
            ["train", "--input=no/such*", "--output=x", "--kind=byte"],
            1,
            "no file matches 'no/such*'",
        ),
        (["train", "--input=x", "--output=x", "--kind=bep"], 2, "'bep'; did you mean 'bpe'?"),
        (
            ["train", "--input=x", "--output=x", "--kind=byte", "--vocab_size=9"],
            2,
            "byte tokenizer.vocab_size: unknown key",
        ),
        (["encode", "text"], 2, "which tokenizer? give its folder or file: --tokenizer=DIR"),
        (["encode", "--tokenizer=no/such", "text"], 1, "no tokenizer at /"),
        (["encode", "--tokenizer=BYTE", "two", "words"], 2, "put quotes around it (got 2"),
        (["encode", "--tokenizer=BYTE", "--lines", "a"], 2, "leave out the text argument"),
        (["encode", "--tokenizer=BYTE", ""], 1, "nothing to encode: the text is empty"),
        (["decode", "--tokenizer=BYTE", "1", "1.5"], 2, "token ids are whole numbers, got '1.5'"),
        (["decode", "--tokenizer=BYTE", "259"], 1, "token id 259 is outside the vocabulary"),
        (
            ["decode", "--tokenizer=BYTE", "7" * 5000],
            1,
            "token id 77777777777777777777... is outside any vocabulary",
        ),
        (["decode", "--tokenizer=BYTE", " "], 1, "nothing to decode: no ids given"),
        (["decode", "--tokenizer=BYTE", "--lines", "1"], 2, "leave out the ids"),
    ],
)
def test_messages(
    arguments: list[str],
    status: int,
    message: str,
    byte_tokenizer: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [a.replace("BYTE", str(byte_tokenizer)) for a in arguments]
    assert main(["tokenizer", *arguments]) == status
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.startswith("lm tokenizer: ")
    assert captured.out == ""


def test_vocab_size_is_asked_for(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(corpus, tmp_path / "out", "--kind=bpe") == 2
    assert "--vocab_size" in capsys.readouterr().err


def test_bytes_that_are_not_utf8(
    corpus: Path,
    tmp_path: Path,
    byte_tokenizer: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (corpus / "c.txt").write_bytes(b"fine\n\xff")
    assert train(corpus, tmp_path / "out", "--kind=byte") == 1
    error = capsys.readouterr().err
    assert str(corpus / "c.txt") in error and "byte 5" in error
    give_input(monkeypatch, b"ab\xff")
    assert main(["tokenizer", "encode", f"--tokenizer={byte_tokenizer}"]) == 1
    assert "standard input: byte 2 is not UTF-8" in capsys.readouterr().err


def test_empty_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_text("")
    arguments = [f"--input={tmp_path}/empty.txt", f"--output={tmp_path}/out"]
    assert main(["tokenizer", "train", "--kind=character", *arguments]) == 1
    assert "no text to train a character tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
