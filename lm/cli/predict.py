"""`lm predict`: what a trained model answers: labels, spans, tags, translations, replies."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from absl import flags

from lm.cli.beams import beams_from, define_beam_search
from lm.cli.common import define_step, use_compilation_cache
from lm.cli.files import check_output, write_output
from lm.errors import ConfigError

if TYPE_CHECKING:
    from lm.data.examples_read import Example
    from lm.predict.base import Predictor

SUMMARY = "what a trained model answers: labels, spans, tags, translations"
EXAMPLES = """
lm predict --workdir=runs/sst2 "A fine film."
lm predict --workdir=runs/sst2 --input=reviews.tsv --output=answers.jsonl
lm predict --workdir=runs/xquad "Who wrote it?" "It was Ada Lovelace who wrote it."
lm predict --workdir=runs/xquad --input=q.jsonl --field=question=query --field=context=passage
lm predict --workdir=runs/multi30k --num_beams=5 --length_penalty=0.6 < test.en > test.de.jsonl

The output is a JSON object a line, for each example in order: the answer, after the example's "id"
where it has one. "left_out" counts the tokens of an example that did not fit and were cut: the end
of a text; of a conversation the oldest messages, where the run's data.too_long is "cut" (else it is
an error). A text's "finish_reason" is "eos", "stop" (a reply's end marker) or "length" (cut).

What an example has depends on what was learned: a text (classification, regression, translation,
a prompt), a question and a context, a text and choices, words. On the command line every text is an
example, or all together are one. A file holds a text a line (.txt), JSON objects (.jsonl), a table
(.tsv, .csv), SQuAD's json (it needs no answers), or the columns that were learned from (--format=
columns where the ending is .txt); its fields are called as in the training data, or text,
text_pair, question, context, choices, words, prompt, messages.
"""

PROGRESS_SECONDS = 10.0
BAR = 30


def define(values: flags.FlagValues) -> None:
    """The flags of `lm predict`."""
    text, whole = flags.DEFINE_string, flags.DEFINE_integer
    options: dict[str, Any] = {"flag_values": values}
    text("workdir", None, "folder of the run whose model to ask", **options)
    text("input", None, "file of examples; - (the default where no text is given) is standard "
         "input, a text a line, or JSON lines where an example is more than that",
         **options)  # fmt: skip
    text("output", None, "file for the answers instead of standard output; written only when all "
         "are there", **options)  # fmt: skip
    flags.DEFINE_enum("format", None, ["lines", "jsonl", "tsv", "csv", "squad", "columns"],
                      "how --input is written (default: by the ending of its name)",
                      **options)  # fmt: skip
    flags.DEFINE_multi_string("field", [], "of --input: ROLE=NAME, which key or column is what; a "
                              "number counts columns from 0; may be repeated",
                              **options)  # fmt: skip
    flags.DEFINE_bool("header", None, "whether a table's first row names its columns (default: by "
                      "what is there)", **options)  # fmt: skip
    whole("batch_size", 32, "examples at a time; it changes nothing but the speed", lower_bound=1,
          **options)  # fmt: skip
    define_step(values)
    whole("max_new_tokens", None, "of texts: most tokens of an answer (default: as long as targets "
          "were in training; 128 for replies, or what positions are left)", lower_bound=1,
          **options)  # fmt: skip
    whole("num_return_sequences", 1, "of texts: the best so many, as candidates", lower_bound=1,
          **options)  # fmt: skip
    define_beam_search(values)
    flags.mark_flags_as_required(["workdir"], flag_values=values)


def run(values: flags.FlagValues, rest: list[str]) -> int:
    """Reads the examples, loads the run, writes the answers."""
    if rest and values.input is not None:
        raise ConfigError("give texts on the command line, or --input=, not both")
    if values.input == "":
        raise ConfigError("--input= names no file: give one, or - (standard input)")
    check_output(values.output)
    if values.num_beams is None and values["repetition_penalty"].present:
        raise ConfigError("--repetition_penalty is of beam search: give --num_beams with it")
    beam = beams_from(values)
    use_compilation_cache()
    from lm.predict.predictor import check_run, load
    from lm.train.workdir import read_config

    workdir = Path(values.workdir)
    check_run(workdir)
    examples = read_examples(read_config(workdir), values, rest)
    predictor = load(
        workdir, values.step, beam=beam, max_new_tokens=values.max_new_tokens,
        batch_size=values.batch_size, num_return_sequences=values.num_return_sequences,
    )  # fmt: skip
    answer_all(predictor, examples, values.output, pretty=len(rest) == 1 or len(examples) == 1)
    return 0


def read_examples(config: Any, values: flags.FlagValues, texts: Sequence[str]) -> list[Example]:
    """The examples of the command line, or of --input.

    Raises:
      ConfigError, UserError: see `lm.predict.roles` and `lm.predict.files`.
    """
    from lm.predict.files import InputFiles
    from lm.predict.roles import forms_of, from_arguments

    given = [name for name in ("format", "field", "header") if values[name].present]
    if texts:
        if given:
            raise ConfigError(f"--{given[0]} is of --input=, and the texts are given here")
        return from_arguments(texts, forms_of(config))
    fields = dict(map(_field, values.field))
    files = InputFiles(config, fields=fields, format=values.format, header=values.header)
    if values.input is None and sys.stdin.isatty():
        print("reading standard input, to its end (Ctrl-D)", file=sys.stderr)
    return files.read(values.input or "-")


def _field(given: str) -> tuple[str, int | str]:
    role, equals, column = given.partition("=")
    if not (role and equals and column):
        raise ConfigError(f"--field={given} should be ROLE=NAME, such as --field=text=sentence")
    return role, int(column) if column.isdecimal() else column


def answer_all(
    predictor: Predictor, examples: Sequence[Example], output: str | None, *, pretty: bool
) -> None:
    """Writes the answers, JSON lines or for a reader at a terminal; to stderr how it went."""
    started = time.perf_counter()
    counts = {"left_out": 0, "cut": 0, "unfinished": 0}

    def answers() -> Iterator[dict[str, Any]]:
        found = progress(predictor.answers(examples), len(examples))
        for example, answer in zip(examples, found, strict=True):
            counts["left_out"] += answer.get("left_out", 0)
            counts["cut"] += "left_out" in answer
            counts["unfinished"] += answer.get("finish_reason") == "length"
            name = example.values.get("id")
            yield answer if name is None else {"id": name, **answer}

    def write(file: BinaryIO) -> None:
        for answer in answers():
            file.write(as_line(answer).encode())

    if output is not None:
        write_output(output, write)
    elif pretty and sys.stdout.isatty():
        print("\n".join(map(shown, examples, answers())))
    else:
        for answer in answers():
            sys.stdout.write(as_line(answer))
    elapsed = time.perf_counter() - started
    print(
        f"{len(examples):,} examples in {elapsed:.2f} s (compilation included), checkpoint step "
        f"{predictor.run.step}",
        file=sys.stderr,
    )
    if counts["cut"]:
        print(
            f"note: {counts['cut']:,} of {len(examples):,} examples are longer than what the model "
            f'reads: {counts["left_out"]:,} tokens are left out ("left_out")',
            file=sys.stderr,
        )
    if counts["unfinished"]:
        most = getattr(predictor, "max_new_tokens", None)
        print(
            f"note: {counts['unfinished']:,} of {len(examples):,} texts had no end after "
            f'--max_new_tokens={most}, or where the model\'s positions end ("finish_reason": '
            '"length")',
            file=sys.stderr,
        )


def as_line(answer: dict[str, Any]) -> str:
    return json.dumps(answer, ensure_ascii=False) + "\n"


def progress(answers: Iterable[Any], total: int) -> Iterator[Any]:
    """The answers; on stderr how many there are, every few seconds where there are many."""
    began = said = time.monotonic()
    for number, answer in enumerate(answers, 1):
        yield answer
        now = time.monotonic()
        if now - said >= PROGRESS_SECONDS and number < total:
            said = now
            left = int((now - began) / number * (total - number))
            print(
                f"{number:,}/{total:,} examples  ETA {left // 60}:{left % 60:02d}", file=sys.stderr
            )


def shown(example: Example, answer: dict[str, Any]) -> str:
    """An answer for a reader."""
    lines = []
    probabilities = answer.get("probabilities")
    if "tags" in answer:
        words = example.values["words"]
        words = words.split() if isinstance(words, str) else words
        width = max(map(len, words))
        for word, tag, p in zip(words, answer["tags"], answer["probabilities"], strict=True):
            said = "(left out)" if tag is None else f"{tag}  {p:.3f}"
            lines.append(f"{word:<{width}}  {said}")
    elif probabilities is not None:
        table = probabilities if isinstance(probabilities, dict) else dict(enumerate(probabilities))
        width = max(len(str(name)) for name in table)
        for name, p in sorted(table.items(), key=lambda item: -item[1]):
            lines.append(f"{name!s:<{width}}  {p:.3f}  {'#' * round(BAR * p)}".rstrip())
    elif "candidates" in answer:
        lines += [f"{each['score']:.3f}  {each['text']}" for each in answer["candidates"]]
    elif "answer" in answer:
        where = f"  (characters {answer['start']} to {answer['end']})" if answer["answer"] else ""
        lines.append((answer["answer"] or "no answer") + where)
    else:
        lines.append(str(answer.get("text", answer.get("value"))))
    return "\n".join(lines)
