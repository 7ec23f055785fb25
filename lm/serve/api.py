"""What goes over the wire: a request for a completion or for an answer in a conversation, and the
answers, all in OpenAI's shapes."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm.serve.device import ALTERNATIVES
from lm.serve.fields import (
    ApiError,
    check_names,
    kind_of,
    prompts_of,
    sampling_of,
    stops_of,
    typed,
    whole,
)
from lm.serve.slots import Made

DEFAULT_TOKENS = 16
LARGEST_SEED, LARGEST_TOP_K = 2**32 - 1, 2**31 - 1
ROLES = ("system", "user", "assistant")
# What OpenAI has and we do not, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
}
OF_COMPLETIONS: dict[str, tuple[Any, ...]] = {**NEUTRAL, "best_of": (1,), "suffix": ("",)}
OF_CHAT: dict[str, tuple[Any, ...]] = {
    **NEUTRAL,
    "response_format": ({"type": "text"},),
    "store": (False,),
    "tools": ([],),
}
# top_k is not OpenAI's, but what servers of open models take besides.
_KNOWN = (
    *("model", "max_tokens", "temperature", "top_p", "top_k", "n", "stop", "seed", "stream"),
    *("stream_options", "logprobs", "user"),
)


@dataclass(frozen=True)
class Limits:
    """What a request may ask for. `positions`: prompt and completion together."""

    max_prompt_tokens: int
    max_new_tokens: int
    positions: int
    max_sequences: int


@dataclass(frozen=True)
class CompletionRequest:
    """A checked request; `prompts` are texts or token ids, as given."""

    prompts: tuple[str | list[int], ...]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    n: int
    stop: tuple[str, ...]
    seed: int
    stream: bool
    include_usage: bool
    logprobs: int | None
    echo: bool


def parse_json(body: bytes) -> dict[str, Any]:
    """The body as an object. Raises ApiError."""
    try:
        value = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"the body must be a JSON object, not {kind_of(value)}")
    return value


def parse_request(body: Mapping[str, Any], model: str, limits: Limits) -> CompletionRequest:
    """Checks every field of a request for completions. Raises ApiError, which names the field."""
    given = _given(body, (*_KNOWN, "prompt", "echo"), OF_COMPLETIONS, model)
    echo = typed(given, "echo", bool, "true or false", False)
    request = CompletionRequest(
        prompts=prompts_of(given.get("prompt")),
        # With echo the prompt may be all that is wanted.
        max_tokens=whole(
            given, "max_tokens", DEFAULT_TOKENS, 0 if echo else 1, limits.max_new_tokens
        ),
        logprobs=whole(given, "logprobs", None, 0, ALTERNATIVES),
        echo=echo,
        **_shared(given, limits),
    )
    sequences = len(request.prompts) * request.n
    if sequences > limits.max_sequences:
        raise ApiError(400, f"{len(request.prompts)} prompts times n={request.n} are {sequences} "
                       f"sequences, more than the {limits.max_sequences} that this server takes "
                       "at once", param="n")  # fmt: skip
    return request


def parse_chat(
    body: Mapping[str, Any], model: str, limits: Limits
) -> tuple[list[dict[str, str]], CompletionRequest]:
    """Checks every field of a request for an answer: the messages, and all but the prompt.
    max_tokens is 0 where nobody says: as many as there is room for. Raises ApiError."""
    more = ("messages", "max_completion_tokens", "top_logprobs")
    given = _given(body, (*_KNOWN, *more), OF_CHAT, model)
    if "max_tokens" in given and "max_completion_tokens" in given:
        raise ApiError(400, "max_tokens and max_completion_tokens are the same; give one",
                       param="max_tokens")  # fmt: skip
    name = "max_completion_tokens" if "max_completion_tokens" in given else "max_tokens"
    wanted = typed(given, "logprobs", bool, "true or false", False)
    top = whole(given, "top_logprobs", 0, 0, ALTERNATIVES)
    if top and not wanted:
        raise ApiError(400, "top_logprobs is for logprobs=true", param="top_logprobs")
    request = CompletionRequest(
        prompts=(),
        max_tokens=whole(given, name, None, 1, limits.max_new_tokens) or 0,
        logprobs=top if wanted else None,
        echo=False,
        **_shared(given, limits),
    )
    return _messages(given.get("messages")), request


def _given(
    body: Mapping[str, Any], known: Sequence[str], neutral: Mapping[str, Any], model: str
) -> dict[str, Any]:
    """The fields that are set, by known names, for this model."""
    # null stands for the default, as with OpenAI.
    given = {name: value for name, value in body.items() if value is not None}
    check_names(given, known, neutral)
    named = typed(given, "model", str, "a string", model)
    if named != model:
        raise ApiError(404, f"no model {named!r} here; this server has {model!r}", param="model",
                       code="model_not_found")  # fmt: skip
    typed(given, "user", str, "a string", "")
    return given


def _shared(given: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """What both kinds of request have."""
    options = typed(given, "stream_options", dict, "an object", {})
    stream = typed(given, "stream", bool, "true or false", False)
    for name in options:
        if name != "include_usage":
            message = f"unknown parameter stream_options.{ascii(name)[1:-1]}"
            raise ApiError(400, message, param="stream_options")
    if options and not stream:
        raise ApiError(400, "stream_options is for stream=true", param="stream_options")
    return {
        "temperature": sampling_of(given, "temperature"),
        "top_p": sampling_of(given, "top_p"),
        # -1 and 0 stand for all tokens, as with vLLM.
        "top_k": max(0, whole(given, "top_k", 0, -1, LARGEST_TOP_K)),
        "n": whole(given, "n", 1, 1, limits.max_sequences),
        "stop": stops_of(given.get("stop", ())),
        "seed": whole(given, "seed", secrets.randbits(32), 0, LARGEST_SEED),
        "stream": stream,
        "include_usage": typed(options, "include_usage", bool, "true or false", False),
    }


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise ApiError(400, "messages must be an array of at least one message", param="messages")
    found = []
    for number, message in enumerate(value):
        where = f"messages[{number}]"
        if not isinstance(message, dict) or not {*message} <= {"role", "content"}:
            raise ApiError(400, f"{where} must be an object with role and content",
                           param=where)  # fmt: skip
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ApiError(400, f"{where}.role must be one of {', '.join(ROLES)}",
                           param=f"{where}.role")  # fmt: skip
        if isinstance(content, list) and all(_is_text(part) for part in content):
            content = "".join(part["text"] for part in content)
        if not isinstance(content, str) or not content.strip():
            raise ApiError(400, f"{where}.content must be text", param=f"{where}.content")
        found.append({"role": role, "content": content})
    if found[-1]["role"] == "assistant":
        raise ApiError(400, "the last message is the assistant's own: nothing is to be answered",
                       param="messages")  # fmt: skip
    return found


def _is_text(part: Any) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )


def check_length(index: int, prompt: Sequence[int], max_tokens: int, limits: Limits) -> None:
    """Raises ApiError for a prompt without or with too many tokens."""
    where = f"prompt {index} of" if index else "the prompt has"
    if not prompt:
        raise ApiError(400, "a prompt needs at least one token", param="prompt")
    if len(prompt) > limits.max_prompt_tokens:
        raise ApiError(400, f"{where} {len(prompt)} tokens, more than the "
                       f"{limits.max_prompt_tokens} that this server takes; shorten it",
                       param="prompt", code="context_length_exceeded")  # fmt: skip
    if len(prompt) + max_tokens > limits.positions:
        raise ApiError(400, f"{where} {len(prompt)} tokens, and max_tokens={max_tokens} more "
                       f"exceed the {limits.positions} positions the model has; reduce max_tokens "
                       "or shorten the prompt", param="max_tokens",
                       code="context_length_exceeded")  # fmt: skip


# ----------------------------------------------------------------------------------- answers


def dumps(value: Any) -> str:
    """JSON in one line. Text in any language as it is; lone surrogates cannot occur."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def logprobs_of(made: Sequence[Made], texts: Sequence[str], offsets: Sequence[int],
                names: Mapping[int, str], count: int) -> dict[str, Any]:  # fmt: skip
    """The `logprobs` of a choice, or of a piece of it: the text each token added and where it
    begins, and `count` alternatives by their `names`. A prompt's first token has none of it."""
    return {
        "tokens": list(texts),
        "token_logprobs": [_finite(token.logprob) for token in made],
        "top_logprobs": [
            {names[i]: _finite(logprob) for i, logprob in token.alternatives[:count]} or None
            for token in made
        ] if count else None,
        "text_offset": list(offsets),
    }  # fmt: skip


def chat_logprobs_of(made: Sequence[Made], texts: Sequence[str], names: Mapping[int, str],
                     count: int) -> dict[str, Any]:  # fmt: skip
    """The same as chat completions have it."""

    def of(text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode())}

    return {
        "content": [
            of(text, token.logprob)
            | {"top_logprobs": [of(names[i], p) for i, p in token.alternatives[:count]]}
            for token, text in zip(made, texts)
        ]
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
