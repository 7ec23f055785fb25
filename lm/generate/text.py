"""Text in, text out: prompts are tokenised, completions decoded as they come, stop strings found.

Between two chunks of the decoding loop the host decodes the new tokens one by one, and hands on
complete characters only. Text that may be the beginning of a stop string is held back until it is
known whether it is one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn

from lm.config import DataConfig
from lm.data.tokenizer import Tokenizer, stream_decoder
from lm.errors import ConfigError, UserError
from lm.generate.beam import Hypothesis, beam_search
from lm.generate.beam_config import BeamConfig
from lm.generate.constraints import Constraints
from lm.generate.contrastive import ContrastiveConfig, contrastive_search
from lm.generate.decode import Completion, Decoding, FinishReason
from lm.generate.prompts import start_token
from lm.generate.sampling import SamplingConfig
from lm.generate.speculative import Draft, SpeculativeDecoding
from lm.types import Params

# Called with a prompt's index, a sequence's index and a piece of text, as text becomes known.
OnText = Callable[[int, int, str], None]


@dataclass(frozen=True)
class TextCompletion:
    """What followed one prompt.

    text: without the stop string that ended it, and without special tokens.
    tokens, logprobs: every token made, the one that completed a stop string and the end-of-sequence
      token included; log-probabilities are natural, under the model itself (none if not asked for).
    finish_reason: "eos", "stop" (a stop string) or "length" (max_new_tokens were made).
    score: of beam search, which sorts by it (`lm.generate.beam.Hypothesis`); None of samples.
    """

    text: str
    tokens: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    score: float | None = None


class StopBuffer:
    """Passes text on up to the first stop string, holding back what may be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise ConfigError("a stop string cannot be empty")
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """(text that is safe to show, whether a stop string was completed)."""
        self._held += text
        found = [i for i in map(self._held.find, self._stops) if i >= 0]
        if found:
            shown, self._held = self._held[: min(found)], ""
            return shown, True
        keep = len(self._held) - self._longest_start()
        shown, self._held = self._held[:keep], self._held[keep:]
        return shown, False

    def finish(self) -> str:
        """What was held back: no stop string came of it."""
        held, self._held = self._held, ""
        return held

    def _longest_start(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        longest = min(len(self._held), max(map(len, self._stops), default=1) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0


class _Row:
    """One completion as it grows."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stops: Sequence[str],
                 eos_id: int | None, show: Callable[[str], None]) -> None:  # fmt: skip
        self._decoder = stream_decoder(tokenizer)
        # The prompt's tokens decide whether the first word is preceded by a space, in some
        # tokenizers, and a prompt may end within a character.
        for token in prompt:
            self._decoder.push(token)
        self._buffer = StopBuffer(stops)
        self._eos_id = eos_id
        self._show = show
        self._pieces: list[str] = []
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.reason: FinishReason | None = None

    def push(self, token: int, logprob: float | None) -> None:
        self.tokens.append(token)
        if logprob is not None:
            self.logprobs.append(logprob)
        if token == self._eos_id:
            self._end("eos")
        else:
            self._pass_on(self._decoder.push(token))

    def _pass_on(self, text: str) -> None:
        shown, stopped = self._buffer.push(text)
        self._emit(shown)
        if stopped:
            self.reason = "stop"

    def _end(self, reason: FinishReason) -> None:
        self._pass_on(self._decoder.finish())
        if self.reason is None:
            self._emit(self._buffer.finish())
            self.reason = reason

    def _emit(self, text: str) -> None:
        if text:
            self._pieces.append(text)
            self._show(text)

    def completion(self, score: float | None = None) -> TextCompletion:
        if self.reason is None:
            self._end("length")
        assert self.reason is not None
        text = "".join(self._pieces)
        return TextCompletion(text, self.tokens, self.logprobs, self.reason, score)


def encode_prompt(tokenizer: Tokenizer, text: str, data: DataConfig | None = None) -> list[int]:
    """A prompt's tokens, after <bos> where `data` put one before each document.

    An empty prompt becomes the token that stood before documents in training (`start_token`).

    Raises:
      UserError: the prompt is empty and no token stood before documents (none is known to have if
        `data` is None), or the tokenizer cannot encode the text.
    """
    tokens = tokenizer.encode(text)
    start = None if data is None else start_token(data, tokenizer)
    # An eos is what a document may begin after, a bos what it always begins with.
    if start is not None and data is not None and (data.add_bos or not tokens):
        return [start, *tokens]
    if not tokens:
        raise UserError(
            "the prompt is empty, and no token stood before the documents this model was trained "
            "on; give a prompt of at least one character"
        )
    return tokens


def around_source(
    tokenizer: Tokenizer, data: DataConfig | None = None
) -> tuple[list[int], list[int]]:
    """What an encoder reads before and after a text: <bos> and <eos> where `data` put them, or
    else what the tokenizer's own files say (XLNet: <sep> <cls>)."""
    if data is None:
        return [], []
    if not (data.add_bos or data.add_eos):
        return list(tokenizer.wrapping[0]), list(tokenizer.wrapping[1])
    before = [tokenizer.bos_id] if data.add_bos and tokenizer.bos_id is not None else []
    after = [tokenizer.eos_id] if data.add_eos and tokenizer.eos_id is not None else []
    return before, after


def encode_source(tokenizer: Tokenizer, text: str, data: DataConfig | None = None) -> list[int]:
    """A text as an encoder reads it: whole, with what stands around it (`around_source`).

    Raises:
      UserError: no token at all, or the tokenizer cannot encode the text.
    """
    before, after = around_source(tokenizer, data)
    tokens = [*before, *tokenizer.encode(text), *after]
    if not tokens:
        raise UserError("the text is empty: give at least one character")
    return tokens


def generate_text(
    model: nn.Module,
    params: Params,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    sampling: SamplingConfig | BeamConfig | ContrastiveConfig,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    seed: int = 0,
    num_return_sequences: int = 1,
    data: DataConfig | None = None,
    before: Sequence[int] = (),
    start: Sequence[int] | None = None,
    on_text: OnText | None = None,
    chunk: int = 8,
    constraints: Constraints | None = None,
    draft: Draft | None = None,
    both_ways: bool = False,
    sources: bool = False,
    logprobs: bool = True,
) -> list[list[TextCompletion]]:
    """Continues text prompts; rows end at the tokenizer's eos or a stop string. An encoder-decoder
    reads them and writes new texts. Samples are all made in one batch; a search sorts prompts by
    length into batches of its own.

    Args:
      model, params, tokenizer: of one run.
      prompts: the texts to continue (see `encode_prompt`) or read (`encode_source`).
      sampling: how tokens are chosen: one by one, or by beam search (`lm.generate.beam`) or
        contrastive search (`lm.generate.contrastive`), which take neither `seed` nor `stop`.
      max_new_tokens, seed, num_return_sequences: see `lm.generate.decode.generate`.
      stop: strings that end a completion; they are looked for in the completion only.
      data: of the run: how documents began in training, see `encode_prompt`.
      before, start: of an encoder-decoder, tokens before every source, and those its target begins
        with (M2M-100: the source's language, and </s> with the target's).
      on_text: gets each piece of each completion as soon as it is known; the pieces of a row joined
        are its text.
      chunk: steps between two looks at the tokens, so text comes in pieces of up to that many
        tokens; it changes no result. (A search gives every text at the end.)
      constraints: of beam search, what may be said.
      draft: of sampling, who proposes tokens (`lm.generate.speculative`).
      both_ways, sources: of a decoder: its prompts see themselves both ways, and are texts of their
        own (see `reads_both_ways` and `reads_sources` in `lm.generate.prompts`).
      logprobs: of samples, give log-probabilities, see `lm.generate.decode.generate`.

    Returns:
      One list of `num_return_sequences` completions a prompt.

    Raises:
      ConfigError, UserError: as `generate` or `beam_search`; an empty stop string, or any with a
        search; constraints without beam search, several sequences of a contrastive one; a draft
        with a search, or one that does not fit; `both_ways` with a draft or a contrastive search;
        text that cannot be encoded.
    """
    joined = sources or model.config.architecture == "encoder_decoder"
    encode = encode_source if joined else encode_prompt
    encoded = [[*before, *encode(tokenizer, text, data)] for text in prompts]
    n, eos_id = num_return_sequences, tokenizer.eos_id
    # What a row's text goes on from: its prompt, or after a text of its own nothing.
    read = [[] if joined else tokens for tokens in encoded]
    if both_ways and (draft is not None or isinstance(sampling, ContrastiveConfig)):
        raise ConfigError(
            "this model reads prompts both ways, as it learned from prefixes, which neither a "
            "draft nor contrastive search does: leave that out"
        )
    if constraints is not None and not isinstance(sampling, BeamConfig):
        raise ConfigError("constraints are for beam search alone")
    if not isinstance(sampling, SamplingConfig):
        if draft is not None:
            raise ConfigError("a draft does not go with a search")
        if stop:
            raise ConfigError(
                "stop strings do not go with a search, where a text ends with the end-of-sequence "
                "token"
            )
        found = _search(
            model, params, encoded, sampling, n, constraints, max_new_tokens=max_new_tokens,
            eos_id=eos_id, vocab_size=tokenizer.vocab_size, start=start, both_ways=both_ways,
        )  # fmt: skip
        return _texts(tokenizer, read, found, on_text)
    begin: Any = functools.partial(Decoding, both_ways=both_ways)
    if draft is not None:
        begin = functools.partial(SpeculativeDecoding, draft=draft)
    decoding: Decoding = begin(
        model, params, encoded, sampling=sampling, max_new_tokens=max_new_tokens, eos_id=eos_id,
        seed=seed, num_return_sequences=n, vocab_size=tokenizer.vocab_size, start=start,
        chunk=chunk, logprobs=logprobs,
    )  # fmt: skip

    def show(row: int) -> Callable[[str], None]:
        if on_text is None:
            return lambda text: None
        return lambda text: on_text(row // n, row % n, text)

    rows = [_Row(tokenizer, read[i // n], stop, eos_id, show(i)) for i in range(decoding.rows)]
    for tokens, likelihoods, valid in decoding.chunks():
        for index, row in enumerate(rows):
            for token, logprob, made in zip(tokens[index], likelihoods[index], valid[index]):
                if made and row.reason is None:
                    row.push(int(token), float(logprob) if logprobs else None)
            if row.reason is not None:
                decoding.end(index)
    completions = [row.completion() for row in rows]
    return [completions[i : i + n] for i in range(0, len(completions), n)]


def _search(
    model: nn.Module,
    params: Params,
    encoded: Sequence[Sequence[int]],
    how: BeamConfig | ContrastiveConfig,
    num_return_sequences: int,
    constraints: Constraints | None,
    both_ways: bool,
    **options: Any,
) -> Sequence[Sequence[Completion]]:
    if isinstance(how, BeamConfig):
        return beam_search(
            model, params, encoded, beams=how, num_return_sequences=num_return_sequences,
            constraints=constraints, both_ways=both_ways, **options,
        )  # fmt: skip
    if num_return_sequences != 1:
        raise ConfigError(
            f"contrastive search finds one completion of a prompt, not {num_return_sequences}"
        )
    return contrastive_search(model, params, encoded, contrast=how, **options)


def _texts(
    tokenizer: Tokenizer,
    read: Sequence[Sequence[int]],
    found: Sequence[Sequence[Completion]],
    on_text: OnText | None,
) -> list[list[TextCompletion]]:
    """What was found as text, shown whole."""
    completions: list[list[TextCompletion]] = []
    for index, (prompt, hypotheses) in enumerate(zip(read, found)):
        completions.append([])
        for sequence, hypothesis in enumerate(hypotheses):
            row = _Row(tokenizer, prompt, (), tokenizer.eos_id, lambda text: None)
            for token, logprob in zip(hypothesis.tokens, hypothesis.logprobs):
                row.push(token, logprob)
            score = hypothesis.score if isinstance(hypothesis, Hypothesis) else None
            completions[-1].append(row.completion(score))
            if on_text is not None:
                on_text(index, sequence, completions[-1][-1].text)
    return completions
