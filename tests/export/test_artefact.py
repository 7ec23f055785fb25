"""A model handed over answers without this package as it does with it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lm.cli.main import main
from lm.config import (
    Classification,
    MaskedLM,
    PermutationLM,
    QuestionAnswering,
    Regression,
    SequenceToSequence,
    TokenClassification,
)
from lm.convert.tokenizer_export import library_of
from lm.data.examples_read import Example
from lm.data.tokenizers.simple import Words
from lm.export import run as runner
from lm.generate.embedding import embed, encode_texts
from lm.generate.sampling import SamplingConfig
from lm.generate.text import generate_text
from lm.objectives.tasks.predictions import predictions
from lm.train.workdir import load_run
from tests.export.runs import ENCODER, GROUPED, JOINED, LENGTH, TIED, TWO_STREAM, make_run

pytest.importorskip("flatbuffers")

ROOT = Path(__file__).resolve().parent.parent.parent
LABELS = ("good", "bad", "neither")
PROMPTS = ["a cat sat", "It", "the quick brown fox; jumps"]
TEXTS = ["so be it", "a longer text than the other one, to be cut where rows end"]
# Alone in an empty folder, with a module `lm` that cannot be imported. What is asked of each
# artefact, and what the script says with such a command line.
DRIVER = """
import io, json, runpy, sys
from contextlib import redirect_stdout
sys.modules["lm"] = None
jobs = json.loads(sys.argv[1])
sys.path.insert(0, jobs["script"])
from run import Artefact
answers = {}
for name, (folder, calls) in jobs["calls"].items():
    model = Artefact(folder)
    answers[name] = [model(texts, **options) for texts, options in calls]
sys.argv = ["run.py", *jobs["command"]]
said = io.StringIO()
with redirect_stdout(said):
    try:
        runpy.run_path(jobs["run"], run_name="__main__")
    except SystemExit as done:
        assert not done.code, done.code
foreign = [m for m in sys.modules if m.split(".")[0] in ("lm", "flax", "optax", "orbax", "torch")]
assert foreign == ["lm"], foreign
print(json.dumps({"answers": answers, "said": said.getvalue()}))
"""
# In a process of its own too: lengths that are open are no `int`, as annotations have it, which
# are checked in this one.
EXPORTER = """
import json, sys
from lm.cli.main import main
for command in json.loads(sys.argv[1]):
    assert main(["export", *command]) == 0, command
"""
CALLS: dict[str, list[tuple[list[Any], dict[str, Any]]]] = {
    "decoder": [
        (PROMPTS, {"max_new_tokens": 12}),
        (PROMPTS[:1], {"max_new_tokens": 20, "temperature": 0.9, "top_p": 0.9, "seed": 5}),
    ],
    "tied": [(PROMPTS[:2], {"max_new_tokens": 9, "temperature": 1.2, "top_k": 5, "seed": 1})],
    "joined": [(TEXTS, {"max_new_tokens": 10})],
    "words": [(["b a nowhere", "c"], {"max_new_tokens": 5})],
    "embedding": [(TEXTS[:1] + PROMPTS, {"pooling": p}) for p in ("mean", "cls", "last")],
    "xlnet": [(PROMPTS, {"pooling": "cls", "normalize": True})],
    "pairs": [([TEXTS, [TEXTS[1], TEXTS[1]], "alone"], {})],
    "several": [(TEXTS, {})],
    "number": [(TEXTS, {})],
    "tags": [(["a word or two", "and " * 20], {}), (["", "one", " "], {}), ([""], {})],
}


def make(folder: Path, name: str) -> Path:
    """The workdir of each case."""
    several = Classification(labels=LABELS, multi_label=True)
    cases: dict[str, Any] = {
        "decoder": lambda w: make_run(w, GROUPED, add_eos=True),
        "tied": lambda w: make_run(w, TIED, add_bos=True),
        "joined": lambda w: make_run(w, JOINED, SequenceToSequence(target_length=20)),
        "words": lambda w: make_run(w, GROUPED, tokenizer=Words(["a", "b", "c"])),
        "embedding": lambda w: make_run(w, ENCODER, MaskedLM(), add_bos=True),
        "xlnet": lambda w: make_run(w, TWO_STREAM, PermutationLM(num_predict=6)),
        "pairs": lambda w: make_run(w, ENCODER, Classification(labels=LABELS, separators=2)),
        "several": lambda w: make_run(w, TWO_STREAM, several),
        "number": lambda w: make_run(w, JOINED, Regression()),
        "tags": lambda w: make_run(w, ENCODER, TokenClassification(labels=LABELS)),
    }
    return cases[name](folder / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artefacts")


@pytest.fixture(scope="module")
def answered(folder: Path) -> dict[str, Any]:
    """What the artefacts answer, all in one process of their own."""
    commands = []
    for name in CALLS:
        commands.append([f"--workdir={make(folder, name)}", f"--output={folder / name}-out"])
        # One of them for every platform, and in half the space.
        more = ["--dtype=bfloat16"] if name == "words" else ["--platforms=cpu"]
        commands[-1] += more
    done = subprocess.run(
        [sys.executable, "-c", EXPORTER, json.dumps(commands)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone = folder / "alone"
    alone.mkdir()
    jobs = {
        "script": str(folder / "decoder-out"),
        "calls": {name: (str(folder / f"{name}-out"), calls) for name, calls in CALLS.items()},
        "run": str(folder / "decoder-out" / "run.py"),
        "command": [f"--text={PROMPTS[0]}", "--max_new_tokens=12"],
    }
    done = subprocess.run(
        [sys.executable, "-I", "-c", DRIVER, json.dumps(jobs)],
        cwd=alone, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["decoder", "tied", "joined", "words"])
def test_texts_are_continued_token_by_token(
    folder: Path, answered: dict[str, Any], name: str
) -> None:
    run = load_run(folder / name)
    params = run.params
    if name == "words":
        params = jax.tree.map(lambda x: x.astype("bfloat16").astype(x.dtype), params)
    for (texts, options), found in zip(CALLS[name], answered["answers"][name], strict=True):
        k = options.get("top_k")
        sampling = SamplingConfig(options.get("temperature", 0.0), k, options.get("top_p"))
        wanted = generate_text(
            run.model, params, run.tokenizer, texts, sampling=sampling, data=run.config.data,
            max_new_tokens=options["max_new_tokens"], seed=options.get("seed", 0),
        )  # fmt: skip
        for [one], answer in zip(wanted, found, strict=True):
            assert answer["tokens"] == one.tokens
            assert answer["finish_reason"] == one.finish_reason
            assert answer["text"] == one.text
            np.testing.assert_allclose(answer["logprobs"], one.logprobs, atol=1e-4)


def test_the_script_prints_prompt_and_completion(answered: dict[str, Any]) -> None:
    [first, *_] = answered["answers"]["decoder"][0]
    assert answered["said"] == PROMPTS[0] + first["text"] + "\n"


@pytest.mark.parametrize("name", ["embedding", "xlnet"])
def test_texts_are_embedded(folder: Path, answered: dict[str, Any], name: str) -> None:
    run = load_run(folder / name)
    for (texts, options), found in zip(CALLS[name], answered["answers"][name], strict=True):
        given = [("", text) for text in texts]
        tokens = encode_texts(run.tokenizer, given, run.config.model, run.config.data)
        for index, wanted in embed(run.model, run.params, tokens, pooling=options["pooling"]):
            if options.get("normalize"):
                wanted = wanted / np.linalg.norm(wanted)
            np.testing.assert_allclose(found[index]["embedding"], wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["pairs", "several", "number", "tags"])
def test_tasks_are_answered(folder: Path, answered: dict[str, Any], name: str) -> None:
    run = load_run(folder / name)
    (texts, _), found = CALLS[name][0], answered["answers"][name][0]
    roles: list[dict[str, Any]] = []
    for text in texts:
        if name == "tags":
            roles.append({"words": text.split()})
        else:
            parts = [text] if isinstance(text, str) else text
            roles.append(dict(zip(("text", "text_pair"), parts)))
    objective: Any = run.objective
    maker = objective.example_maker(run.tokenizer, run.config.data)
    examples = [Example(values, "an example") for values in roles]
    wanted = list(predictions(objective, run.trained, maker, examples, batch_size=2))
    cut = [encoded.left_out for encoded, _ in wanted]
    assert any(cut), "a text that does not fit is among them"
    for (encoded, answer), given in zip(wanted, found, strict=True):
        assert given.get("left_out", 0) == (0 if name == "tags" else encoded.left_out)
        for key, value in answer.items():
            if isinstance(value, dict) or key in ("value", "probabilities"):
                assert given[key] == pytest.approx(value, abs=1e-5)
            else:
                assert given[key] == value


def test_a_text_without_words_has_no_tags(answered: dict[str, Any]) -> None:
    nothing: dict[str, Any] = {"words": [], "tags": [], "probabilities": []}
    _, among, alone = answered["answers"]["tags"]
    assert among[0] == among[2] == nothing and alone == [nothing]
    assert among[1]["words"] == ["one"] and among[1]["tags"][0] in LABELS


def test_the_platform_is_the_one_that_programs_are_exported_for(
    folder: Path, answered: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """JAX says "gpu" of AMD's too."""
    monkeypatch.setattr(runner.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(runner.export, "default_export_platform", lambda: "rocm")
    with pytest.raises(runner.NotPossibleError, match="exported for cpu, and JAX runs on rocm"):
        runner.Artefact(folder / "decoder-out")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file or directory.: is the folder what lm export wrote"),
        ("{", "manifest.json is not valid JSON"),
        ("[]", "is not what lm export wrote"),
    ],
)
def test_a_folder_that_is_none(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(runner.NotPossibleError, match=words):
        runner.Artefact(tmp_path)


def test_the_folder_says_what_it_is(folder: Path, answered: dict[str, Any]) -> None:
    manifest = json.loads((folder / "pairs-out" / "manifest.json").read_text())
    assert manifest["kind"] == "classify" and manifest["how"]["labels"] == list(LABELS)
    assert manifest["program"]["inputs"]["tokens"]["shape"] == ["b", "t"]
    assert manifest["program"]["limits"] == [f"t <= {LENGTH}"]
    fixed = json.loads((folder / "xlnet-out" / "manifest.json").read_text())
    assert fixed["program"]["inputs"]["tokens"]["shape"] == ["b", LENGTH]
    listed = {*manifest["files"], "manifest.json"}
    assert listed == {path.name for path in (folder / "pairs-out").iterdir()}
    readme = (folder / "decoder-out" / "README.md").read_text()
    assert "python run.py --text=" in readme and "temperature       float32" in readme


def test_the_script_needs_jax_numpy_and_tokenizers_alone() -> None:
    tree = ast.parse(Path(runner.__file__).read_text())
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom)
                     else [alias.name for alias in node.names])
    }  # fmt: skip
    assert names - sys.stdlib_module_names == {"jax", "numpy", "tokenizers"}


def test_what_the_script_cannot_do_is_said(folder: Path, answered: dict[str, Any]) -> None:
    model = runner.Artefact(folder / "tied-out")
    for texts, options, message in (
        (["a" * 47], {"max_new_tokens": 1}, "48 tokens and max_new_tokens=1 more exceed the 48"),
        (["a"], {"max_new_tokens": 0}, "at least 1"),
        (["a"], {"top_p": 0.0}, "top_p=0.0"),
        (["a"], {"temperature": float("nan")}, "temperature=nan"),
    ):
        with pytest.raises(runner.NotPossibleError, match=message):
            model(texts, **options)
    with pytest.raises(runner.NotPossibleError, match=f"42 tokens; from 1 to {LENGTH}"):
        runner.Artefact(folder / "xlnet-out")(["a" * 41])


def test_a_damaged_folder_is_refused(folder: Path, answered: dict[str, Any]) -> None:
    weights = folder / "number-out" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(runner.NotPossibleError, match="weights.safetensors is not the file"):
        runner.Artefact(folder / "number-out")
    weights.unlink()
    with pytest.raises(runner.NotPossibleError, match="is missing"):
        runner.Artefact(folder / "number-out")


def test_one_artefact_for_every_platform(folder: Path, answered: dict[str, Any]) -> None:
    out = folder / "words-out"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["platforms"] == ["cpu", "cuda", "tpu"]
    count = sum(x.size for x in jax.tree.leaves(load_run(folder / "words").params))
    size = (out / "weights.safetensors").stat().st_size
    assert 2 * count < size < 2 * count + 4096
    # Nor are the weights in the program.
    assert (out / "generate.jax_export").stat().st_size < 10**6


def test_wrong_commands_are_said(
    folder: Path, answered: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", f"--workdir={folder / 'tied'}"]
    assert main([*command, f"--output={folder / 'tied-out'}"]) == 1
    assert f"--output={folder / 'tied-out'} is not empty" in capsys.readouterr().err
    command.append(f"--output={folder / 'new'}")
    for flags, message in (
        ("--platforms=cpu,abacus", "name some of cpu, cuda, rocm, tpu"),
        ("--family=gpt2", "--family does not go with --format=jax"),
    ):
        assert main([*command, flags]) == 2
        assert message in capsys.readouterr().err
    assert not (folder / "new").exists()


def test_what_is_not_handed_over_so_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = QuestionAnswering(max_question_tokens=8)
    workdir = make_run(tmp_path / "W", ENCODER, task)
    assert main(["export", f"--workdir={workdir}", f"--output={tmp_path / 'out'}"]) == 2
    assert "'question_answering': use --format=huggingface" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_hugging_face_s_folder_is_that_of_convert(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = make(tmp_path, "tied")
    export = ["export", f"--workdir={workdir}", "--format=huggingface"]
    assert main([*export, f"--output={tmp_path / 'a'}"]) == 0
    assert json.loads(capsys.readouterr().out)["family"] == "gpt2"
    assert main(["convert", f"--workdir={workdir}", f"--to={tmp_path / 'b'}"]) == 0
    files = sorted((tmp_path / "a").iterdir())
    assert files and [path.name for path in files] == sorted(
        path.name for path in (tmp_path / "b").iterdir()
    )
    for path in files:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert main([*export, f"--output={tmp_path / 'c'}", "--platforms=cpu"]) == 2


def test_words_are_split_alike() -> None:
    words = Words(["a", "b,", "ß"])
    library = library_of(words)
    library.encode_special_tokens = True
    for text in ("a b, ß", " a\tb,\n\nx\u3000ß\x1ca ", "", "<unk> nowhere"):
        encoded = library.encode(text, add_special_tokens=False).ids
        assert encoded == words.encode(text)
        assert library.decode(encoded, skip_special_tokens=False) == words.decode(encoded)
