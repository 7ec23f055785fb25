import gzip
import json
import re
from pathlib import Path

import pytest

from lm.config import Embedded, JsonlFiles, Source, TextFiles, TsvFiles
from lm.data import embedded
from lm.data.sources import documents, source_fingerprint
from lm.errors import ConfigError, UserError


def read(source: Source, root: Path) -> list[str]:
    return [document["text"] for document in documents(source, root)]


def test_a_file_is_a_document_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\n\r\ntwo 春\n".encode())
    assert read(TextFiles(paths=("a.txt",)), tmp_path) == ["one\r\n\r\ntwo 春\n"]


def test_lines_and_paragraphs(tmp_path: Path) -> None:
    # U+2028 and form feed end no line; "\r\n" does.
    (tmp_path / "a.txt").write_bytes("one\r\n\n  \ntwo\u2028\x0cstill\nthree".encode())
    lines = read(TextFiles(paths=("a.txt",), document="line"), tmp_path)
    assert lines == ["one", "", "  ", "two\u2028\x0cstill", "three"]
    paragraphs = read(TextFiles(paths=("a.txt",), document="paragraph"), tmp_path)
    assert paragraphs == ["one", "two\u2028\x0cstill\nthree"]


def test_globs_gzip_order_and_files_matched_twice(tmp_path: Path) -> None:
    (tmp_path / "d" / "deep").mkdir(parents=True)
    (tmp_path / "d" / "b.txt").write_text("b")
    (tmp_path / "d" / "a.txt.gz").write_bytes(gzip.compress("a 春".encode()))
    (tmp_path / "d" / "deep" / "c.txt").write_text("c")
    assert read(TextFiles(paths=("d/*.txt*",)), tmp_path) == ["a 春", "b"]
    assert read(TextFiles(paths=("d/**/*.txt", "d/*")), tmp_path) == ["b", "c", "a 春"]
    assert read(TextFiles(paths=(str(tmp_path / "d" / "b.txt"),)), Path("/nowhere")) == ["b"]


def test_jsonl(tmp_path: Path) -> None:
    rows = [{"body": "one\n", "n": 1}, {"body": "春"}]
    (tmp_path / "a.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows))
    assert read(JsonlFiles(paths=("a.jsonl",), field="body"), tmp_path) == ["one\n", "春"]


def test_jsonl_lists_are_sentences_of_a_text_and_alternatives_of_a_target(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"s": ["One.", "Two."], "t": ["A", "B"]}\n')
    source = JsonlFiles(paths=("a.jsonl",), field="s", target_field="t")
    assert pairs(source, tmp_path) == [("One. Two.", "A")]
    with pytest.raises(UserError, match="field 's' is list, not a string"):
        (tmp_path / "a.jsonl").write_text('{"s": ["One.", 2], "t": "A"}\n')
        pairs(source, tmp_path)


def test_tsv(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b'id\tsentence\r\n1\ta "quoted\r\n2\tb\r\n')
    by_name = TsvFiles(paths=("a.tsv",), column="sentence", header=True)
    assert read(by_name, tmp_path) == ['a "quoted', "b"]
    assert read(TsvFiles(paths=("a.tsv",), column=1, header=True), tmp_path) == ['a "quoted', "b"]
    assert read(TsvFiles(paths=("a.tsv",), column=0), tmp_path) == ["id", "1", "2"]


def test_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module.py").write_text("'Of the module.'\ndef f():\n  'Of f.'\n")
    (tmp_path / "topics.py").write_text("topics = {'if': 'The if statement'}\n")
    files = [tmp_path / "module.py", tmp_path / "topics.py"]
    monkeypatch.setattr(embedded, "module_files", lambda: files)
    texts = ["Of the module.\n\nOf f.\n", "The if statement\n"]
    assert sorted(read(Embedded(), tmp_path)) == texts
    before = source_fingerprint(Embedded(), tmp_path)
    files[0].write_text("'Other.'")
    assert source_fingerprint(Embedded(), tmp_path) != before


def lines(paths: tuple[str, ...], target_paths: tuple[str, ...]) -> TextFiles:
    return TextFiles(paths=paths, target_paths=target_paths, document="line")


def pairs(source: Source, root: Path) -> list[tuple[str, ...]]:
    found = list(documents(source, root))
    assert all(list(document) == ["text", "target"] for document in found)
    return [tuple(document.values()) for document in found]


def test_lines_and_their_targets_file_by_file(tmp_path: Path) -> None:
    for name, text in (("b.en", "one\n\nthree"), ("a.en", "four"), ("a.de", "vier\r\n")):
        (tmp_path / name).write_text(text)
    (tmp_path / "b.de.gz").write_bytes(gzip.compress(b"eins\nzwei\ndrei\n"))
    found = pairs(lines(("*.en",), ("a.de", "b.de.gz")), tmp_path)
    # Cleaning drops (and counts) the pair with an empty text.
    assert found == [("four", "vier"), ("one", "eins"), ("", "zwei"), ("three", "drei")]


def test_targets_of_tsv_and_jsonl(tmp_path: Path) -> None:
    rows = "about.po\tWelcome\t欢迎\nabout.po\tThanks\t鸣谢\n"
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(rows.encode()))
    expected = [("Welcome", "欢迎"), ("Thanks", "鸣谢")]
    given = {"column": 1, "target_column": 2}
    assert pairs(TsvFiles(paths=("a.tsv.gz",), **given), tmp_path) == expected
    (tmp_path / "b.tsv").write_text("file\ten\tzh\n" + rows)
    named = {"column": "zh", "target_column": 1, "header": True}
    found = pairs(TsvFiles(paths=("b.tsv",), **named), tmp_path)
    assert found == [(zh, en) for en, zh in expected]
    objects = [{"document": "long", "summary": "short", "n": 1}, {"summary": "s", "document": "d"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, objects)))
    source = JsonlFiles(paths=("a.jsonl",), field="document", target_field="summary")
    assert pairs(source, tmp_path) == [("long", "short"), ("d", "s")]


def test_embedded_lines_and_the_next_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "texts", lambda: iter(["one\n\ntwo\nthree\n", "alone\n"]))
    assert pairs(Embedded(pairs=True), tmp_path) == [("one", "two"), ("two", "three")]


def test_the_fingerprint_tells_texts_from_targets(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)

    def of(paths: tuple[str, ...], target_paths: tuple[str, ...] = ()) -> str:
        return source_fingerprint(lines(paths, target_paths), tmp_path)

    found = {of(("a",)), of(("a",), ("b",)), of(("b",), ("a",)), of(("a",), ("c",)), of(("a", "b"))}
    assert len(found) == 5
    assert of(("a",), ("[b]",)) == of(("a",), ("b",))


BROKEN: list[tuple[dict[str, bytes], Source, str]] = [
    ({}, TextFiles(paths=("corpus/*.txt",)), r"no file matches 'corpus/\*.txt' below the data root "
     r"\S+\n.*--data_root=FOLDER.*LM_DATA(.|\n)*'embedded' needs no files"),
    ({}, TextFiles(paths=("tinyshakespeare/input.txt",)), r"comes from https://raw.githubuser"),
    ({"d/a.txt": b"a"}, TextFiles(paths=("d/",)),
     r"d/ is a folder; name the files in it, such as d/\*"),
    ({"a.txt": b"ab\nc\xff"}, TextFiles(paths=("a.txt",)),
     r"a.txt is not UTF-8 at byte 4 \(line 2\): 0xff, invalid start byte; convert .*iconv"),
    ({"a.txt": b"\xef\xbb\xbfab\nc\xe6\x98"}, TextFiles(paths=("a.txt",), document="line"),
     r"a.txt is not UTF-8 at byte 7 \(line 2\): 0xe6"),
    ({"a.gz": gzip.compress(b"text " * 99)[:-12]}, TextFiles(paths=("a.gz",)),
     r"a.gz is not a whole gzip file .* fetch it again"),
    ({"a.gz": b"not gzip"}, TextFiles(paths=("a.gz",)), r"a.gz is not a whole gzip file"),
    ({"a.txt": gzip.compress(b"text")}, TextFiles(paths=("a.txt",)),
     r"a.txt is not UTF-8 text but gzip; give its name the ending .gz"),
    ({"a.txt": "text".encode("utf-16")}, TextFiles(paths=("a.txt",), document="line"),
     r"a.txt is not UTF-8 text but UTF-16; convert it: iconv -f UTF-16 -t UTF-8"),
    ({"a.txt.gz": gzip.compress("some text in it".encode("utf-16-le"))},
     TextFiles(paths=("a.txt.gz",)), r"a.txt.gz is not UTF-8 text but UTF-16.*UTF-16LE"),
    ({"a.txt": b" \n\n"}, TextFiles(paths=("a.txt",)), r"source is empty: a.txt below .* no text"),
    ({"a.j": b'{"text": "a"}\n{"text": '}, JsonlFiles(paths=("a.j",)),
     r"a.j:2 is not JSON .*repair"),
    ({"a.j": b'{"txt": "a", "b": 1}'}, JsonlFiles(paths=("a.j",)),
     r"a.j:1 has no field 'text'; did you mean 'txt'\?$"),
    ({"a.j": b'{"zz": "a", "b": 1}'}, JsonlFiles(paths=("a.j",)),
     r"a.j:1 has no field 'text'; known: b, zz$"),
    ({"a.j": b"{}"}, JsonlFiles(paths=("a.j",)), r"no field 'text': there is none at all$"),
    ({"a.j": b"[" * 100_000}, JsonlFiles(paths=("a.j",)), r"a.j:1 is not JSON .*recursion"),
    ({"a.j": b'[\n{"text": "a"}\n]'}, JsonlFiles(paths=("a.j",)),
     r"a.j:1 is not JSON .*must be a whole object.*looks like one JSON array"),
    ({"a.j": b"[1]"}, JsonlFiles(paths=("a.j",)), r"a.j:1 is a JSON list, not an object"),
    ({"a.j": b'{"text": 1}'}, JsonlFiles(paths=("a.j",)), r"field 'text' is int, not a string"),
    ({"a.j": b'{"text": "ab\\ud800"}'}, JsonlFiles(paths=("a.j",)),
     r"a.j:1.*surrogate.*character 2"),
    ({"a.t": b"a\tb\nc\n"}, TsvFiles(paths=("a.t",), column=1),
     r"a.t:2 has no column 1: 1 tab-separated columns there"),
    ({"a.t": b"id\ttext\n"}, TsvFiles(paths=("a.t",), column="txt", header=True),
     r"a.t:1 has no column 'txt'; did you mean 'text'\?$"),
    ({"a.t": b"a\tb\tc\na\tb\n"}, TsvFiles(paths=("a.t",), target_column=2),
     r"a.t:2 has no column 2: 2 tab-separated columns there"),
    ({"a.t": b"a\tb\n"}, TsvFiles(paths=("a.t",), column=0, target_column="de", header=True),
     r"a.t:1 has no column 'de'; known: a, b$"),
    ({"a.j": b'{"text": "a"}'}, JsonlFiles(paths=("a.j",), target_field="de"),
     r"a.j:1 has no field 'de'; known: text$"),
    ({"a.en": b"1\n2\n3\n", "a.de": b"1\n2"}, lines(("a.en",), ("a.de",)),
     r"a.en has 3 lines and \S*a.de, which should have their targets, 2: line n"),
    ({"a.en": b"1\n", "a.de": b"1\n2\n3\n"}, lines(("a.en",), ("a.de",)),
     r"a.en has 1 lines and \S*a.de, which should have their targets, 3: line n"),
    ({"a.en": b"1\n", "b.en": b"1\n", "a.de": b"1\n2\n"}, lines(("*.en",), ("a.de",)),
     r"paths are 2 files and target_paths 1, .*: a.en, b.en against a.de$"),
    ({"a.en": b"1\n"}, lines(("a.en",), ("*.de",)), r"no file matches '\*.de' below"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "source", "message"), BROKEN)
def test_errors_say_where_and_what_to_do(
    files: dict[str, bytes], source: Source, message: str, tmp_path: Path
) -> None:
    for name, contents in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(contents)
    with pytest.raises(UserError) as raised:
        read(source, tmp_path)
    assert re.search(message, str(raised.value)), str(raised.value)


def test_a_root_with_characters_of_globs(tmp_path: Path) -> None:
    (tmp_path / "data[1]").mkdir()
    (tmp_path / "data[1]" / "a.txt").write_text("a")
    assert read(TextFiles(paths=("*.txt",)), tmp_path / "data[1]") == ["a"]


def test_a_number_too_long_for_python_beside_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.j").write_text('{"text": "a", "n": ' + "7" * 5000 + "}")
    assert read(JsonlFiles(paths=("a.j",)), tmp_path) == ["a"]


def test_the_version_of_the_embedded_corpus_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "topics.py").write_text("topics = {}\n")
    monkeypatch.setattr(embedded, "module_files", lambda: [tmp_path / "topics.py"])
    before = source_fingerprint(Embedded(), tmp_path)
    monkeypatch.setattr(embedded, "VERSION", embedded.VERSION + 1)
    assert source_fingerprint(Embedded(), tmp_path) != before


def test_settings_that_cannot_be_meant(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a path of the source is empty: name files"):
        read(TextFiles(paths=("",)), tmp_path)
    with pytest.raises(ConfigError, match="names no files: set its paths"):
        read(TextFiles(), tmp_path)
    (tmp_path / "a.tsv").write_text("a\tb\n")
    with pytest.raises(ConfigError, match="'b' is a header's name, so .* header=True"):
        read(TsvFiles(paths=("a.tsv",), column="b"), tmp_path)


def test_the_fingerprint_follows_contents_and_settings_not_the_place(tmp_path: Path) -> None:
    def of(root: str, text: str, **settings: object) -> str:
        (tmp_path / root).mkdir(exist_ok=True)
        (tmp_path / root / "a.txt").write_text(text)
        source = TextFiles(paths=("a.txt",), **settings)  # type: ignore[arg-type]
        return source_fingerprint(source, tmp_path / root)

    first = of("x", "text")
    assert of("y", "text") == first
    other_glob = TextFiles(paths=("*.txt",))
    assert source_fingerprint(other_glob, tmp_path / "y") == first
    assert of("x", "text", weight=3.0, fraction=(0.0, 0.5)) == first
    assert of("x", "tex!") != first
    assert of("x", "text", document="line") != first
