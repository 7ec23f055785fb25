"""`lm evaluate`: the metrics of a trained run on its validation splits, as JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from lm.cli.beams import beams_from, define_beam_search
from lm.cli.common import define_data_root, define_step, no_positional, use_compilation_cache
from lm.cli.files import check_output, write_output
from lm.cli.harness import check_harness, define_harness, run_harness
from lm.errors import ConfigError, UserError

if TYPE_CHECKING:
    from lm.evaluate.answers import Answered, Asked

SUMMARY = "measure a trained run on its validation data (JSON on stdout)"
EXAMPLES = """
lm evaluate --workdir=runs/quickstart --baseline
lm evaluate --workdir=runs/shakespeare --data_root=DIR --step=1000 --batches=20
lm evaluate --workdir=runs/sst2 --baseline --page=sst2.html --predictions=sst2.jsonl
lm evaluate --workdir=runs/imdb --input=reviews.tsv --metrics=accuracy,f1_macro
lm evaluate --workdir=runs/summaries --metrics=rouge:stemmer=true --num_beams=4
lm evaluate --workdir=runs/multi30k-mean --input=test.en --target=test.de --num_beams=5 \\
  --metrics=bleu_tokenised
lm evaluate --workdir=runs/gpt2 --suite=lm-eval --tasks=lambada_openai,piqa --limit=200

Of every objective the means of its loss's terms; of tasks, translation and replies also the metrics
of the answers, with 95 % intervals by bootstrap over examples:

  classification         accuracy f1 f1_macro matthews calibration (f1_micro f1_weighted)
  multi_label            multilabel
  regression             pearson spearman mean_squared_error
  token_classification   entities word_accuracy
  question_answering     squad, squad_v2 or squad_chinese
  multiple_choice        accuracy (calibration)
  sequence_to_sequence   chrf, bleu or bleu_tokenised, rouge (exact_match)
  instruction            exact_match rouge (chrf bleu bleu_tokenised), of the last answer

Those in brackets only where --metrics names them, as NAME or NAME:OPTION=VALUE:OPTION=VALUE
(rouge:stemmer=true, rouge:kinds=rouge1+rougeL, bleu:tokenize=zh); --metrics=loss writes no answers.
Words that BPE split ("wo@@ rds", with tokenizer "words") are joined first. ROUGE compares words of
a-z, and characters where the references are in another script.

Of examples that are too long the run's data.too_long decides, as in training: an error that names
the line, or they are cut ("examples_cut"), or left out of the loss and the metrics alike
("examples_dropped"). In another file (--input) what would be an error is cut.
"""


def define(values: flags.FlagValues) -> None:
    text, whole = flags.DEFINE_string, flags.DEFINE_integer
    options: dict[str, Any] = {"flag_values": values}
    text("workdir", None, "folder of the run", **options)
    define_step(values)
    whole("batches", None, "batches a split, and as many rows of examples (else the whole split)",
          lower_bound=1, **options)  # fmt: skip
    whole("batch_size", None, "rows a batch (else the config's)", lower_bound=1, **options)
    flags.DEFINE_boolean("baseline", False, "beside what needs no model: a token's frequency, the "
                         "most frequent label, a copy of the source ...", **options)  # fmt: skip
    text("split", None, "the one of data.validation to evaluate; else all", **options)
    text("input", None, "evaluate on this file instead, of the form that --split's files have; "
         "relative to here or below the data root", **options)  # fmt: skip
    text("target", None, "file with the targets of --input, line by line", **options)
    flags.DEFINE_list("metrics", None, "metrics of answers (see above; else by the objective), or "
                      "loss", **options)  # fmt: skip
    whole("resamples", None, "samples of examples for intervals; 0 makes none (default: 1000)",
          lower_bound=0, **options)  # fmt: skip
    text("predictions", None, "write every example with its right answer and the run's to this "
         "file, as JSON lines", **options)  # fmt: skip
    text("page", None, "write a page about the evaluation to this file (HTML)", **options)
    whole("max_new_tokens", None, "of texts: most tokens of an answer (default: as long as targets "
          "were in training; 128 for replies, or what positions are left)", lower_bound=1,
          **options)  # fmt: skip
    define_beam_search(values)
    define_data_root(values)
    define_harness(values)
    flags.mark_flags_as_required(["workdir"], flag_values=values)


def run(values: flags.FlagValues, rest: list[str]) -> int:
    no_positional(rest)
    check_harness(values)
    if values.suite is not None:
        use_compilation_cache()
        return run_harness(values)
    check_output(values.predictions, "--predictions")
    check_output(values.page, "--page")
    if values.page is not None and values.page == values.predictions:
        raise ConfigError(f"--page and --predictions are the same file, {values.page}: name two")
    use_compilation_cache()
    asked = asked_from(values)
    from lm.data.roots import cache_root
    from lm.evaluate.validation import evaluate_run, gives_answers
    from lm.train.workdir import EVALUATIONS, load_run, run_data_root

    loaded = load_run(Path(values.workdir), values.step)
    if values.predictions is not None and not gives_answers(loaded.config, asked):
        raise ConfigError(
            "--predictions are of answers: this run gives none, or --metrics=loss asks for none"
        )
    found = evaluate_run(
        loaded,
        data_root=run_data_root(loaded.workdir, values.data_root),
        cache_dir=cache_root(),
        batch_size=values.batch_size,
        limit=values.batches,
        baseline=values.baseline,
        asked=asked,
        split=values.split,
        input=values.input,
        target=values.target,
        report=lambda line: print(line, file=sys.stderr),
    )
    if values.predictions is not None:
        lines = "".join(_lines(found.answered)).encode()
        write_output(values.predictions, lambda file: file.write(lines), "--predictions")
    if values.page is not None:
        from lm.evaluate.answers_page import evaluation_page

        page = evaluation_page(loaded, found.splits, found.answered, command(values)).encode()
        write_output(values.page, lambda file: file.write(page), "--page")
    summary = {"step": loaded.step, "splits": found.splits}
    print(json.dumps(summary, indent=2, ensure_ascii=False))
    if values.batches is None:
        _keep(loaded.workdir / EVALUATIONS / f"{loaded.step}.json", summary)
    return 0


def asked_from(values: flags.FlagValues) -> Asked | None:
    """What the flags say about answers; None where they say nothing.

    Raises:
      ConfigError: metrics that are written wrongly, or flags of a search without --num_beams.
    """
    from lm.evaluate.answers import RESAMPLES, Asked
    from lm.evaluate.selection import LOSS, parsed

    if values.num_beams is None and values["repetition_penalty"].present:
        raise ConfigError("--repetition_penalty is of beam search: give --num_beams with it")
    metrics = None
    if values.metrics is not None:
        if not [name for name in values.metrics if name]:
            raise ConfigError("--metrics= names none; --metrics=loss measures the loss alone")
        metrics = [] if values.metrics == [LOSS] else parsed(values.metrics)
    resamples = RESAMPLES if values.resamples is None else values.resamples
    asked = Asked(metrics, beams_from(values), values.max_new_tokens, resamples)
    return None if asked == Asked() else asked


def command(values: flags.FlagValues) -> list[str]:
    """The command line that the flags are of."""
    return ["lm", "evaluate", *(values[name].serialize() for name in sorted(values)
            if name == values[name].name and values[name].present)]  # fmt: skip


def _lines(answered: Mapping[str, Answered]) -> Iterator[str]:
    for name, split in answered.items():
        for example, truth, answer in zip(split.examples, split.truths, split.answers):
            line = {
                "split": name,
                "place": example.place,
                "example": dict(example.values),
                "expected": truth,
                "predicted": answer,
            }
            yield json.dumps(line, ensure_ascii=False) + "\n"


def _keep(path: Path, found: dict[str, Any]) -> None:
    """Writes the result into the run's folder, for pictures; a note where it is read-only. What
    was measured there before stays: other splits, and what needed no model."""
    from lm.train.workdir import read_json, write_json

    try:
        before = read_json(path).get("splits", {}) if path.exists() else {}
        for name, split in before.items():
            now = found["splits"].setdefault(name, split)
            if "baseline" in split:
                now.setdefault("baseline", split["baseline"])
        path.parent.mkdir(exist_ok=True)
        write_json(path, found)
    except (OSError, UserError) as error:
        print(f"note: the result is not kept: {error}", file=sys.stderr)
