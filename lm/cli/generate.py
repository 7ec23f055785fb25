"""`lm generate`: continue a prompt with the model of a run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from absl import flags

from lm.cli.beams import beams_from, constraints_from, contrast_from, define_beams
from lm.cli.common import define_step, no_positional, use_compilation_cache
from lm.cli.speed import define_speed, draft_from, lightened
from lm.errors import ConfigError, UserError, did_you_mean

if TYPE_CHECKING:
    from lm.generate.beam_config import BeamConfig
    from lm.generate.contrastive import ContrastiveConfig
    from lm.generate.sampling import SamplingConfig
    from lm.generate.text import TextCompletion
    from lm.train.workdir import Run

SUMMARY = "continue a prompt with a trained model"
EXAMPLES = """
lm generate --workdir=runs/quickstart --prompt="The function returns"
lm generate --workdir=runs/quickstart --prompt="Once" --temperature=0.8 --top_p=0.95 --seed=1
lm generate --workdir=runs/quickstart --prompt=- --temperature=0 --stop=. --json < prompt.txt
lm generate --workdir=runs/gpt2 --prompt="Once" --weights=int8 --draft=runs/gpt2-small
lm generate --workdir=runs/translate --prompt="A dog runs." --num_beams=5 --length_penalty=0.6
"""

SEPARATOR = "-" * 20
NEW_TOKENS = 128


def define(values: flags.FlagValues) -> None:
    """The flags of `lm generate`."""
    text, whole, number = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    options: dict[str, Any] = {"flag_values": values}
    text("workdir", None, "folder of the run whose model to use", **options)
    text(
        "prompt",
        None,
        "text to continue; - reads standard input, '' starts from nothing",
        **options,
    )
    text(
        "prompt_file",
        None,
        "file whose whole text, final newline included, is continued",
        **options,
    )
    whole("max_new_tokens", None, f"most tokens to make (default: {NEW_TOKENS}, or fewer where the "
          "model's learned positions end earlier)", lower_bound=1, **options)  # fmt: skip
    number("temperature", 1.0, "logits are divided by it; 0 takes the likeliest token", **options)
    whole("top_k", None, "sample from the k likeliest tokens only", **options)
    number("top_p", None, "sample from the likeliest tokens that together have this "
           "probability, (0, 1]", **options)  # fmt: skip
    number("min_p", None, "sample from tokens with at least this share of the likeliest "
           "token's probability, [0, 1]", **options)  # fmt: skip
    number("typical_p", None, "sample from the tokens nearest to the expected information that "
           "together have this probability, (0, 1]", **options)  # fmt: skip
    whole("num_return_sequences", 1, "completions to make", lower_bound=1, **options)
    whole("seed", 0, "of the sampling", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_multi_string(
        "stop",
        [],
        "end before this string of the completion, taken as it is: the shell writes a newline as "
        "--stop=$'\\n'; may be repeated",
        **options,
    )
    text("source_token", None, "of an encoder-decoder: a token before the text it reads, such as "
         "M2M-100's __en__", **options)  # fmt: skip
    text("target_token", None, "a token that its text begins with, such as __de__", **options)
    define_step(values)
    flags.DEFINE_bool("json", False, "print one JSON object: {prompt, completions: "
                      "[{text, tokens, finish_reason}]}; of a search, with the score of each",
                      **options)  # fmt: skip
    define_beams(values)
    define_speed(values)
    flags.mark_flags_as_required(["workdir"], flag_values=values)


def run(values: flags.FlagValues, rest: list[str]) -> int:
    """Reads the prompt, loads the run, prints what follows."""

    no_positional(rest)
    prompt = read_prompt(values.prompt, values.prompt_file)
    use_compilation_cache()
    from lm.train.workdir import load_run

    sampling = beams_from(values) or contrast_from(values) or sampling_from(values)
    run = lightened(load_run(Path(values.workdir), values.step), values.weights)
    return run_with(run, prompt, sampling, values, sys.stdout)


def read_prompt(prompt: str | None, prompt_file: str | None) -> str:
    """The prompt's text, from the command line, a file or standard input.

    Raises:
      ConfigError: none given, or both ways at once.
      UserError: the file cannot be read or is empty, or the text is not UTF-8.
    """
    if (prompt is None) == (prompt_file is None):
        raise ConfigError("give the text to continue either as --prompt=TEXT or as --prompt_file=F")
    if prompt_file is not None:
        where = prompt_file
        try:
            data = Path(prompt_file).read_bytes()
        except OSError as error:
            raise UserError(
                f"could not read --prompt_file={prompt_file}: {error.strerror}"
            ) from error
        if not data:
            raise UserError(
                f"--prompt_file={prompt_file} is empty; --prompt='' starts from nothing"
            )
    elif prompt == "-":
        where, data = "standard input", sys.stdin.buffer.read()
    else:
        assert prompt is not None
        # Bytes of the command line that are no text arrive as lone surrogates.
        where, data = "--prompt", prompt.encode("utf-8", "surrogateescape")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"the prompt ({where}) is not UTF-8 text: {error}") from error


def sampling_from(values: flags.FlagValues) -> SamplingConfig:
    """What the flags say about sampling. Raises ConfigError for a value outside its range."""
    from lm.generate.sampling import SamplingConfig

    return SamplingConfig(
        temperature=values.temperature,
        top_k=values.top_k,
        top_p=values.top_p,
        min_p=values.min_p,
        typical_p=values.typical_p,
        repetition_penalty=values.repetition_penalty,
    )


def default_new_tokens(run: Run, prompt: str) -> int:
    """How many tokens to make when nobody says: NEW_TOKENS, as far as there are positions."""
    from lm.generate.prompts import reads_sources
    from lm.generate.text import encode_prompt, encode_source
    from lm.model.cache import position_limit

    limit = position_limit(run.config.model)
    if limit is None:
        return NEW_TOKENS
    if run.config.model.architecture == "encoder_decoder":
        return max(1, min(NEW_TOKENS, limit - 1))
    encode = encode_source if reads_sources(run.config) else encode_prompt
    used = len(encode(run.tokenizer, prompt, run.config.data))
    # A prompt that leaves no room at all is refused further on, with the numbers.
    return max(1, min(NEW_TOKENS, limit - used))


def language_tokens(
    run: Run, source: str | None, target: str | None
) -> tuple[list[int], list[int] | None]:
    """What stands before an encoder-decoder's source, and what its target begins with.

    Raises:
      ConfigError: the model is none, or the tokenizer has no such token.
    """
    if source is None and target is None:
        return [], None
    model = run.config.model
    if model.architecture != "encoder_decoder":
        raise ConfigError(
            "--source_token and --target_token are for encoder-decoders; this model is a "
            f"{model.architecture}"
        )
    pieces = run.tokenizer.pieces(range(run.tokenizer.vocab_size))

    def number(flag: str, piece: str) -> int:
        if piece not in pieces:
            raise ConfigError(
                f"--{flag}={piece}: the tokenizer has no such token{did_you_mean(piece, pieces)}"
            )
        return pieces.index(piece)

    assert model.decoder_start_id is not None
    before = [] if source is None else [number("source_token", source)]
    start = None
    if target is not None:
        start = [model.decoder_start_id, number("target_token", target)]
    return before, start


def run_with(
    run: Run,
    prompt: str,
    sampling: SamplingConfig | BeamConfig | ContrastiveConfig,
    values: flags.FlagValues,
    out: TextIO,
) -> int:
    """Prints to `out` what the model of `run` says after `prompt`, a few tokens at a time where
    there is one completion; a note on speed to stderr."""
    from lm.generate.prompts import reads_both_ways, reads_sources
    from lm.generate.text import generate_text

    streaming = values.num_return_sequences == 1 and not values.json
    # What is a text of its own is no beginning of what is written after it.
    sources = reads_sources(run.config)
    beginning = "" if sources else prompt
    echoed = False

    def show(prompt_index: int, sequence: int, text: str) -> None:
        nonlocal echoed
        # The prompt comes with the first text, so that an error leaves nothing on stdout.
        print(text if echoed else beginning + text, end="", flush=True, file=out)
        echoed = True

    before, start = language_tokens(run, values.source_token, values.target_token)
    draft = draft_from(values, run)
    started = time.perf_counter()
    [completions] = generate_text(
        run.model,
        run.params,
        run.tokenizer,
        [prompt],
        sampling=sampling,
        max_new_tokens=values.max_new_tokens or default_new_tokens(run, prompt),
        stop=values.stop,
        seed=values.seed,
        num_return_sequences=values.num_return_sequences,
        data=run.config.data,
        before=before,
        start=start,
        on_text=show if streaming else None,
        constraints=constraints_from(values, run.tokenizer),
        draft=draft,
        both_ways=reads_both_ways(run.config),
        sources=sources,
        logprobs=False,
    )
    elapsed = time.perf_counter() - started
    if streaming:
        print("" if echoed else beginning, file=out)
    elif values.json:
        print(json.dumps(as_json(prompt, completions), ensure_ascii=False), file=out)
    else:
        print(f"\n{SEPARATOR}\n".join(beginning + c.text for c in completions), file=out)
    count = sum(len(c.tokens) for c in completions)
    print(
        f"{count} tokens in {elapsed:.2f} s ({count / elapsed:.1f} tokens/s, compilation "
        f"included), checkpoint step {run.step}",
        file=sys.stderr,
    )
    return 0


def as_json(prompt: str, completions: Sequence[TextCompletion]) -> dict:
    """What --json prints."""
    return {
        "prompt": prompt,
        "completions": [
            {"text": c.text, "tokens": c.tokens, "finish_reason": c.finish_reason}
            | ({} if c.score is None else {"score": c.score})
            for c in completions
        ],
    }
