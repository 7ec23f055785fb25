"""`lm score`: log-probabilities of texts under the model of a run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from lm.cli.common import define_step, no_positional, use_compilation_cache
from lm.cli.files import check_output, read_objects, string_field, write_output
from lm.errors import ConfigError, UserError

if TYPE_CHECKING:
    from lm.evaluate.scoring import Score
    from lm.train.workdir import Run

SUMMARY = "log-probabilities of texts, or of continuations after contexts"
EXAMPLES = """
lm score --workdir=runs/quickstart --input=texts.jsonl --output=scores.jsonl
echo '{"context": "two and two make", "continuation": " four"}' | lm score --workdir=W --input=-

Each line of the input is {"text": ...} or {"context": ..., "continuation": ...}; other keys are
ignored. Each line of the output, in the same order, is {"logprob", "tokens", "token_logprobs"}: the
natural log-probability of the text or of the continuation, the token ids it is the sum over, and
that of each.

A text's first token is predicted from the token that stood before documents in training (bos or
eos). Where there was none it is not scored, and `tokens` begins with the second. Context and
continuation are tokenised together if the context's own tokens begin the result, else separately.
"""


def define(values: flags.FlagValues) -> None:
    """The flags of `lm score`."""
    options: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("workdir", None, "folder of the run whose model to use", **options)
    flags.DEFINE_string("input", None, "JSON lines to score; - reads standard input", **options)
    flags.DEFINE_string("output", None, "file for the scores instead of standard output; "
                        "written only when all lines are scored", **options)  # fmt: skip
    flags.DEFINE_integer("window_stride", None, "score sequences longer than the training "
                         "sequences in windows of that length, which move on by this many tokens; "
                         "without it every token is predicted from all before it, and a sequence "
                         "beyond the model's learned positions is an error", **options)  # fmt: skip
    define_step(values)
    flags.mark_flags_as_required(["workdir", "input"], flag_values=values)


def run(values: flags.FlagValues, rest: list[str]) -> int:
    """Reads the input, loads the run, writes the scores."""

    no_positional(rest)
    check_output(values.output)
    lines = list(read_lines(values.input))
    use_compilation_cache()
    from lm.train.workdir import load_run

    run = load_run(Path(values.workdir), values.step)
    started = time.perf_counter()
    scores = score_lines(run, lines, window_stride=values.window_stride)
    elapsed = time.perf_counter() - started
    write_scores(scores, values.output)
    count = sum(len(s.tokens) for s in scores)
    print(
        f"{len(scores)} lines, {count} tokens in {elapsed:.2f} s, checkpoint step {run.step}",
        file=sys.stderr,
    )
    return 0


def read_lines(path: str) -> Iterator[tuple[str, dict[str, str]]]:
    """(where, {"text"} or {"context", "continuation"}) of each line; where is "file:line".

    Raises:
      ConfigError, UserError: as `lm.cli.files.read_objects`, or a line is not what it should be.
    """
    for where, value in read_objects(path):
        yield where, _fields(value, where)


def _fields(value: Mapping[str, Any], where: str) -> dict[str, str]:
    """The form a line is in, checked."""
    pair = {"context", "continuation"}
    if "text" in value and pair & set(value):
        raise UserError(f'{where}: give either "text" or "context" and "continuation", not both')
    if "text" not in value and not pair <= set(value):
        keys = ", ".join(map(repr, value)) or "none"
        raise UserError(f'{where}: needs "text", or "context" and "continuation"; its keys: {keys}')
    names = ("text",) if "text" in value else ("context", "continuation")
    fields = {name: string_field(value, name, where) for name in names}
    for name in names:
        if name != "context" and not fields[name]:
            raise UserError(f'{where}: "{name}" is empty, there is nothing to score')
    return fields


def score_lines(
    run: Run, lines: Sequence[tuple[str, Mapping[str, str]]], *, window_stride: int | None = None
) -> list[Score]:
    """Scores of what `read_lines` gives, in order.

    Raises:
      UserError, ConfigError: see `lm.evaluate.scoring`.
    """
    from lm.evaluate import scoring
    from lm.generate.prompts import reads_both_ways, reads_sources, start_token

    if run.config.model.architecture == "decoder" and reads_sources(run.config):
        raise ConfigError(
            "this model learned from pairs of texts, and has no probability for a text that goes "
            "on: lm evaluate --input=F measures the loss of targets"
        )
    tokenizer, data = run.tokenizer, run.config.data
    start = start_token(data, tokenizer)
    bos = tokenizer.bos_id if data.add_bos else None
    requests = []
    for where, line in lines:
        if "text" in line:
            requests.append(scoring.text_request(tokenizer, line["text"], start, where))
        else:
            requests.append(
                scoring.continuation_request(
                    tokenizer, line["context"], line["continuation"], start=start, bos=bos,
                    where=where,
                )
            )  # fmt: skip
    return scoring.score(
        run.model, run.params, requests, window=data.sequence_length, stride=window_stride,
        both_ways=reads_both_ways(run.config),
    )  # fmt: skip


def write_scores(scores: Iterable[Score], path: str | None) -> None:
    """JSON lines to `path`, whole or not at all, or to standard output.

    Raises:
      UserError: the file cannot be written.
    """
    text = "".join(
        json.dumps({"logprob": s.logprob, "tokens": s.tokens, "token_logprobs": s.token_logprobs})
        + "\n"
        for s in scores
    )
    if path is None:
        print(text, end="")
        return
    write_output(path, lambda file: file.write(text.encode()))
