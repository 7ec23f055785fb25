"""A run's model in the Language Model Evaluation Harness (`lm-eval`, EleutherAI): its tasks, asked
of our scorer and our decoding loop."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm.errors import ConfigError, UserError
from lm.evaluate.scoring import Request, continuation_request, score, text_request
from lm.generate.arrange import arrange
from lm.generate.prompts import reads_both_ways, reads_sources, start_token
from lm.generate.sampling import SamplingConfig
from lm.generate.text import generate_text
from lm.model.cache import position_limit
from lm.train.workdir import Run

# Tokens of an answer where the task does not say, as in the harness's own models.
NEW_TOKENS = 256
# What the harness passes on that changes no answer here.
_IGNORED = ("do_sample", "until", "max_gen_toks", "max_new_tokens", "max_tokens", "stop")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")


def evaluate_tasks(
    run: Run,
    tasks: Sequence[str],
    *,
    include_path: Path | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> dict[str, Any]:
    """The harness's results: {"results": {task: metrics}, "versions", "n-samples", "samples", ...}.

    Args:
      tasks: names of tasks or groups: the harness's own, or those of `include_path`'s YAML files,
        which are the only ones where it is given.
      limit: the first so many examples of each task.
      num_fewshot: demonstrations before each example (else as the task says).
      batch_size: prompts that are continued at once.

    Raises:
      ConfigError: lm-eval is not installed, there is no such task, or the model is not one that
        continues texts.
      UserError: a task that cannot be read.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("lm-eval is not installed: pip install 'lm[lm-eval]'")
    from lm_eval.api.model import LM
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    config = run.config.model
    if config.architecture != "decoder" or config.lm_head == "none":
        raise ConfigError(
            "lm-eval's tasks are for decoders with a language-model head; this model is of the "
            f"kind {config.architecture!r} with lm_head={config.lm_head!r}"
        )
    if reads_sources(run.config):
        raise ConfigError(
            "lm-eval's tasks are texts to be continued, and this model learned from pairs: lm "
            "predict asks it, and lm evaluate --input=F measures its answers"
        )
    answers = Answers(run, batch_size=batch_size, seed=seed, report=report)

    class Adapter(LM):
        """What the harness asks, and who answers."""

        def loglikelihood(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            return answers.likelihoods([request.args for request in requests])

        def loglikelihood_rolling(self, requests: Any, **_: Any) -> list[float]:
            return answers.text_likelihoods([request.args[0] for request in requests])

        def generate_until(self, requests: Any, **_: Any) -> list[str]:
            return answers.continuations([request.args for request in requests])

    class Manager(TaskManager):
        """Says which task it was that could not be read."""

        def load(self, task_list: Any) -> Any:
            found: list[Any] = []
            for name in task_list:
                try:
                    one = super().load([name])
                # Whatever a task's files, its functions and its data set may raise.
                except Exception as error:
                    kind = type(error).__name__
                    raise UserError(
                        f"lm-eval could not read the task {name!r}: {kind}: {error}"
                    ) from error
                groups = one["groups"]
                found += [groups[name]] if name in groups else one["tasks"].values()
            return super().load(found)

    manager = Manager(
        include_path=None if include_path is None else str(include_path),
        include_defaults=include_path is None,
    )
    unknown = [name for name in tasks if not manager.match_tasks([name])]
    if unknown:
        where = (
            "lm-eval's own"
            if include_path is None
            else f"those in {include_path} (a YAML file that cannot be read has none)"
        )
        raise ConfigError(f"no task {unknown[0]!r} among {where}")
    try:
        return simple_evaluate(
            model=Adapter(), tasks=list(tasks), task_manager=manager, limit=limit,
            num_fewshot=num_fewshot, random_seed=seed, numpy_random_seed=seed,
            fewshot_random_seed=seed,
        )  # fmt: skip
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"lm-eval could not run {', '.join(tasks)}: {error}") from error


class Answers:
    """The three questions that the harness has, answered by the model of a run.

    What exceeds the model's positions is cut at its beginning, as the harness's own models do, and
    `report` says how often.
    """

    def __init__(
        self, run: Run, *, batch_size: int, seed: int, report: Callable[[str], None]
    ) -> None:
        self._run, self._batch_size, self._seed, self._report = run, batch_size, seed, report
        data = run.config.data
        self._start = start_token(data, run.tokenizer)
        self._bos = run.tokenizer.bos_id if data.add_bos else None
        self._limit = position_limit(run.config.model)
        self._params = arrange(run.model, run.params)
        self._both_ways = reads_both_ways(run.config)

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """(log-probability, is it what greedy decoding says) of each continuation after its
        context. White space at a context's end counts as the continuation's beginning."""
        requests = []
        for number, (context, continuation) in enumerate(pairs, 1):
            kept = context.rstrip()
            requests.append(
                continuation_request(
                    self._run.tokenizer, kept, context[len(kept) :] + continuation,
                    start=self._start, bos=self._bos, where=f"request {number}",
                )
            )  # fmt: skip
        found = score(
            self._run.model, self._run.params, self._cut(requests), both_ways=self._both_ways
        )
        return [(one.logprob, one.greedy) for one in found]

    def text_likelihoods(self, texts: Sequence[str]) -> list[float]:
        """The log-probability of each whole text, long ones in windows of the training length."""
        window = self._run.config.data.sequence_length
        window = window if self._limit is None else min(window, self._limit)
        requests = [
            text_request(self._run.tokenizer, text, self._start, f"request {number}")
            for number, text in enumerate(texts, 1)
        ]
        found = score(
            self._run.model, self._run.params, requests, window=window, stride=window,
            both_ways=self._both_ways,
        )  # fmt: skip
        return [one.logprob for one in found]

    def continuations(self, asked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """What follows each context, up to the first of the strings that `until` names."""
        found: dict[int, str] = {}
        kinds: dict[str, list[int]] = {}
        for index, (_, options) in enumerate(asked):
            kinds.setdefault(repr(sorted(options.items())), []).append(index)
        for members in kinds.values():
            options = asked[members[0]][1]
            # Those of one length together: a batch is as wide as its longest prompt.
            ordered = sorted(members, key=lambda i: -len(asked[i][0]))
            for batch in _batches(ordered, self._batch_size):
                texts = self._generated([asked[i][0] for i in batch], options)
                found.update(zip(batch, texts, strict=True))
        return [found[index] for index in range(len(asked))]

    def _generated(self, prompts: Sequence[str], options: Mapping[str, Any]) -> list[str]:
        unknown = sorted({*options} - {*_IGNORED, *_SAMPLING})
        if unknown:
            raise ConfigError(f"a task asks for generation with {unknown[0]!r}, which lm has not")
        until = options.get("until", options.get("stop")) or []
        until = [until] if isinstance(until, str) else list(until)
        lengths = (options.get(n) for n in ("max_gen_toks", "max_new_tokens", "max_tokens"))
        count = next((int(n) for n in lengths if n is not None), NEW_TOKENS)
        sampling = {name: options[name] for name in _SAMPLING if options.get(name) is not None}
        # Without a word about it the harness means the likeliest token.
        if not options.get("do_sample", sampling.get("temperature", 0) > 0):
            sampling = {"temperature": 0.0}
        if self._limit is not None:
            # A prompt keeps half of the positions at least.
            if count > self._limit // 2:
                count = self._limit // 2
                self._report(f"note: answers end after {count} tokens: half of the positions")
            prompts = [self._shortened(prompt, self._limit - count) for prompt in prompts]
        done = generate_text(
            self._run.model, self._params, self._run.tokenizer, prompts,
            sampling=SamplingConfig(**sampling), max_new_tokens=count,
            stop=[text for text in until if text], seed=self._seed, data=self._run.config.data,
            both_ways=self._both_ways, logprobs=False,
        )  # fmt: skip
        return [completions[0].text for completions in done]

    def _shortened(self, prompt: str, room: int) -> str:
        """The end of a prompt, of at most `room` tokens, with what stands before texts."""
        tokenizer = self._run.tokenizer
        tokens = tokenizer.encode(prompt)
        room -= self._bos is not None
        if len(tokens) <= room:
            return prompt
        self._report(f"note: a prompt of {len(tokens)} tokens is cut to its last {room}")
        for begin in range(len(tokens) - room, len(tokens)):
            text = tokenizer.decode(tokens[begin:])
            # Some tokenizers make more tokens of a part than it was of the whole.
            if len(tokenizer.encode(text)) <= room:
                return text
        return ""

    def _cut(self, requests: Sequence[Request]) -> list[Request]:
        """The requests, each of as many tokens as the model has positions for."""
        if self._limit is None:
            return list(requests)
        kept, shorter = [], 0
        for request in requests:
            # The last token is only predicted.
            room = self._limit + 1 - len(request.tokens)
            if room < 1:
                raise UserError(
                    f"{request.where}: a continuation of {len(request.tokens)} tokens exceeds the "
                    f"{self._limit} positions the model has"
                )
            shorter += len(request.context) > room
            context = request.context[max(0, len(request.context) - room) :]
            kept.append(Request(context, request.tokens, request.where))
        if shorter:
            self._report(
                f"note: {shorter} of {len(requests)} contexts exceed the model's {self._limit} "
                "positions; their beginnings were left out"
            )
        return kept


def _batches(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for begin in range(0, len(order), size):
        yield order[begin : begin + size]
