"""The tasks of lm-eval, answered by our scorer and our decoding loop as if asked directly."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lm.cli.main import main
from lm.cli.score import score_lines
from lm.errors import ConfigError, UserError
from lm.evaluate.harness import evaluate_tasks
from lm.generate.sampling import SamplingConfig
from lm.generate.text import generate_text
from lm.train.workdir import load_run
from tests.export.runs import ENCODER, GROUPED, TIED, make_run

Captured = pytest.CaptureFixture[str]
HARNESS = pytest.importorskip("lm_eval")
# Sentences of BLiMP beside each other: which one is likelier?
BLIMP = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{validation: {path}}}
validation_split: validation
output_type: multiple_choice
doc_to_text: ""
target_delimiter: ""
doc_to_target: 0
doc_to_choice: "{{{{[sentence_good, sentence_bad]}}}}"
metric_list:
  - metric: acc
"""
ROLLING = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{validation: {path}}}
validation_split: validation
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: bits_per_byte
"""
GENERATED = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{validation: {path}}}
validation_split: validation
output_type: generate_until
doc_to_text: "{{{{text}}}}"
doc_to_target: "x"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 6, do_sample: false}}
metric_list:
  - metric: exact_match
"""


@pytest.fixture(autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched, and nothing kept."""
    import datasets

    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    cache = tmp_path_factory.mktemp("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
    monkeypatch.setitem(os.environ, "HF_HOME", str(cache))


def task(folder: Path, name: str, form: str, rows: list[dict[str, Any]]) -> None:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(form.format(name=name, path=path))


def test_blimp_is_the_comparison_of_two_scores(
    data_root: Path, tmp_path: Path, capsys: Captured
) -> None:
    """Through both commands, with published weights."""
    weights = data_root / "weights" / "stories260K"
    source = f"--from={weights / 'stories260K.bin'}", f"--tokenizer={weights / 'tok512.bin'}"
    workdir = tmp_path / "W"
    assert main(["convert", *source, f"--workdir={workdir}"]) == 0
    names = ("anaphor_gender_agreement", "wh_island")
    lines = {}
    for name in names:
        text = (data_root / "blimp" / f"{name}.jsonl").read_text()
        lines[name] = [json.loads(line) for line in text.splitlines()[:40]]
        task(tmp_path, name, BLIMP, lines[name])
    capsys.readouterr()
    command = ["evaluate", f"--workdir={workdir}", "--suite=lm-eval", f"--include_path={tmp_path}"]
    command += [f"--tasks={','.join(names)}", "--limit=30", f"--samples={tmp_path / 's.jsonl'}"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    samples = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    run = load_run(workdir)
    for name in names:
        pairs = [
            (f"{key} {number}", {"text": line[key]})
            for number, line in enumerate(lines[name][:30])
            for key in ("sentence_good", "sentence_bad")
        ]
        scores = [score.logprob for score in score_lines(run, pairs)]
        good, bad = scores[::2], scores[1::2]
        right = sum(a > b for a, b in zip(good, bad))
        assert found["results"][name]["acc,none"] == right / 30
        own = [sample for sample in samples if sample["task"] == name]
        for a, b, sample in zip(good, bad, sorted(own, key=lambda s: s["doc_id"]), strict=True):
            told = [float(response[0][0]) for response in sample["resps"]]
            assert told == pytest.approx([a, b], abs=1e-4)


def test_the_harness_s_three_questions(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "W", GROUPED, add_eos=True))
    long = "many words " * 9
    texts = [{"text": "one two"}, {"text": long}, {"text": "three"}]
    task(tmp_path, "rolling", ROLLING, texts)
    task(tmp_path, "generated", GENERATED, texts)
    found = evaluate_tasks(run, ["rolling", "generated"], include_path=tmp_path, batch_size=2)
    asked = [("", line) for line in texts]
    # The long one is longer than the training sequences.
    window = run.config.data.sequence_length
    total = sum(score.logprob for score in score_lines(run, asked, window_stride=window))
    size = sum(len(line["text"]) for line in texts)
    bits = -total / 0.6931471805599453 / size
    assert found["results"]["rolling"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-5)
    wanted = generate_text(
        run.model, run.params, run.tokenizer, [line["text"] for line in texts],
        sampling=SamplingConfig(0.0), max_new_tokens=6, stop=["\n"], data=run.config.data,
    )  # fmt: skip
    told = {s["doc_id"]: s["resps"][0][0] for s in found["samples"]["generated"]}
    assert [told[i] for i in range(3)] == [one.text for [one] in wanted]


def test_what_exceeds_the_positions_is_cut_at_its_beginning(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "W", TIED, add_bos=True))
    limit = 48
    text = "abcdefgh" * 10
    task(tmp_path, "generated", GENERATED, [{"text": text}])
    notes: list[str] = []
    found = evaluate_tasks(run, ["generated"], include_path=tmp_path, report=notes.append)
    assert notes == [f"note: a prompt of 80 tokens is cut to its last {limit - 7}"]
    [[wanted]] = generate_text(
        run.model, run.params, run.tokenizer, [text[-(limit - 7) :]], sampling=SamplingConfig(0.0),
        max_new_tokens=6, stop=["\n"], data=run.config.data,
    )  # fmt: skip
    assert found["samples"]["generated"][0]["resps"][0][0] == wanted.text
    rows = [{"sentence_good": text[:limit], "sentence_bad": "b"}]
    task(tmp_path, "pairs", BLIMP, rows)
    assert evaluate_tasks(run, ["pairs"], include_path=tmp_path)["results"]["pairs"]


def test_what_cannot_be_evaluated_is_said(tmp_path: Path, capsys: Captured) -> None:
    task(tmp_path, "generated", GENERATED, [{"text": "a"}])
    run = load_run(make_run(tmp_path / "W", GROUPED))
    with pytest.raises(ConfigError, match="no task 'nonsense' among those in"):
        evaluate_tasks(run, ["nonsense"], include_path=tmp_path)
    other = load_run(make_run(tmp_path / "E", ENCODER))
    with pytest.raises(ConfigError, match="'encoder'"):
        evaluate_tasks(other, ["generated"], include_path=tmp_path)
    workdir = f"--workdir={tmp_path / 'W'}"
    for flags, message in (
        (["--limit=3"], "--limit is of a suite"),
        (["--suite=lm-eval"], "needs --tasks"),
        (["--suite=lm-eval", "--tasks=a", "--baseline"], "--baseline does not go with"),
    ):
        assert main(["evaluate", workdir, *flags]) == 2
        assert message in capsys.readouterr().err


def test_a_task_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "W", GROUPED, add_eos=True))
    task(tmp_path, "rolling", ROLLING, [{"text": "one"}])
    (tmp_path / "broken.yaml").write_text("task: [\n")
    for name, line in (("module", "process_docs: !function none.f"), ("metric", "metric_list: 3")):
        content = ROLLING.format(name=name, path=tmp_path / "rolling.jsonl").split("metric_list")[0]
        (tmp_path / f"{name}.yaml").write_text(f"{content}{line}\n")
    with pytest.raises(ConfigError, match="no task 'broken'.*cannot be read has none"):
        evaluate_tasks(run, ["rolling", "broken"], include_path=tmp_path)
    for name, said in (("module", "Cannot import module 'none'"), ("metric", "")):
        with pytest.raises(UserError, match=f"could not read the task '{name}': .*{said}"):
            evaluate_tasks(run, ["rolling", name], include_path=tmp_path)
