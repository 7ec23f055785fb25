"""What goes over the wire: a completion request checked field by field, the answers, the errors,
all in OpenAI's shapes."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm.errors import UserError, did_you_mean
from lm.generate.sampling import SamplingConfig
from lm.serve.device import ALTERNATIVES
from lm.serve.slots import Made

DEFAULT_TOKENS = 16
MOST_STOPS = 16
LARGEST_SEED = 2**32 - 1
# What OpenAI has and we do not, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "suffix": ("",),
}


class ApiError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, *, param: str | None = None,
                 code: str | None = None, retry_after: int | None = None) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.retry_after = status, retry_after
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.error = {
            "message": message, "type": kinds.get(status, kind), "param": param, "code": code,
        }  # fmt: skip

    @property
    def body(self) -> dict[str, Any]:
        return {"error": self.error}


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
        raise ApiError(400, f"the body must be a JSON object, not {_kind(value)}")
    return value


def parse_request(body: Mapping[str, Any], model: str, limits: Limits) -> CompletionRequest:
    """Checks every field. Raises ApiError, which names the field."""
    # null stands for the default, as with OpenAI.
    given = {name: value for name, value in body.items() if value is not None}
    _check_names(given)
    named = _typed(given, "model", str, "a string", model)
    if named != model:
        raise ApiError(404, f"no model {named!r} here; this server has {model!r}", param="model",
                       code="model_not_found")  # fmt: skip
    _typed(given, "user", str, "a string", "")
    options = _typed(given, "stream_options", dict, "an object", {})
    stream = _typed(given, "stream", bool, "true or false", False)
    for name in options:
        if name != "include_usage":
            raise ApiError(400, f"unknown parameter stream_options.{name}", param="stream_options")
    if options and not stream:
        raise ApiError(400, "stream_options is for stream=true", param="stream_options")
    request = CompletionRequest(
        prompts=_prompts(given.get("prompt")),
        max_tokens=_whole(given, "max_tokens", DEFAULT_TOKENS, 1, limits.max_new_tokens),
        temperature=_sampling(given, "temperature"),
        top_p=_sampling(given, "top_p"),
        n=_whole(given, "n", 1, 1, limits.max_sequences),
        stop=_stops(given.get("stop", ())),
        seed=_whole(given, "seed", secrets.randbits(32), 0, LARGEST_SEED),
        stream=stream,
        include_usage=_typed(options, "include_usage", bool, "true or false", False),
        logprobs=_whole(given, "logprobs", None, 0, ALTERNATIVES),
        echo=_typed(given, "echo", bool, "true or false", False),
    )
    sequences = len(request.prompts) * request.n
    if sequences > limits.max_sequences:
        raise ApiError(400, f"{len(request.prompts)} prompts times n={request.n} are {sequences} "
                       f"sequences, more than the {limits.max_sequences} that this server takes "
                       "at once", param="n")  # fmt: skip
    if request.echo and request.logprobs is not None:
        raise ApiError(400, "the log-probabilities of an echoed prompt are not computed here (lm "
                       "score does); leave out echo or logprobs", param="echo")  # fmt: skip
    return request


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


# ------------------------------------------------------------------------------------ fields


_KNOWN = (
    *("model", "prompt", "max_tokens", "temperature", "top_p", "n", "stop", "seed", "stream"),
    *("stream_options", "logprobs", "echo", "user"),
)


def _kind(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a whole number", float: "a number", str: "a string"}
    kinds |= {list: "an array", dict: "an object"}
    return kinds.get(type(value), "null")


def _wrong(name: str, wanted: str, value: Any) -> ApiError:
    return ApiError(400, f"{name} must be {wanted}, not {_kind(value)}", param=name)


def _check_names(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name in NEUTRAL:
            if isinstance(value, bool) or value not in NEUTRAL[name]:
                raise ApiError(400, f"{name} is not supported; leave it out", param=name,
                               code="unsupported_parameter")  # fmt: skip
        elif name not in _KNOWN:
            raise ApiError(400, f"unknown parameter {name!r}{did_you_mean(name, _KNOWN)}",
                           param=name, code="unknown_parameter")  # fmt: skip


def _typed(given: Mapping[str, Any], name: str, kind: type, wanted: str, default: Any) -> Any:
    value = given.get(name, default)
    if not isinstance(value, kind):
        raise _wrong(name, wanted, value)
    return value


def _whole(given: Mapping[str, Any], name: str, default: Any, least: int, most: int) -> Any:
    value = given.get(name)
    if value is None:
        return default if default is None else min(default, most)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(name, "a whole number", value)
    if not least <= value <= most:
        raise ApiError(400, f"{name} must be from {least} to {most}, not {value}", param=name)
    return value


def _sampling(given: Mapping[str, Any], name: str) -> float:
    value = given.get(name, 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, "a number", value)
    try:
        values: dict[str, Any] = {name: float(value)}
        SamplingConfig(**values)
    except (UserError, OverflowError) as error:
        raise ApiError(400, str(error), param=name) from None
    return float(value)


def _stops(value: Any) -> tuple[str, ...]:
    stops = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
    if not isinstance(value, str | list | tuple) or not all(isinstance(s, str) for s in stops):
        raise ApiError(400, "stop must be a string or an array of strings", param="stop")
    if len(stops) > MOST_STOPS:
        raise ApiError(400, f"stop has {len(stops)} strings, at most {MOST_STOPS}", param="stop")
    if "" in stops:
        raise ApiError(400, "a stop string cannot be empty", param="stop")
    return stops


def _prompts(value: Any) -> tuple[str | list[int], ...]:
    wanted = "a string, an array of strings, of token ids, or of arrays of token ids"
    if value is None:
        raise ApiError(400, f"prompt is required: {wanted}", param="prompt")
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise _wrong("prompt", wanted, value)
    if not value:
        raise ApiError(400, "prompt is an empty array", param="prompt")
    if all(isinstance(v, str) for v in value):
        return tuple(value)
    if _ids(value):
        return (value,)
    if all(isinstance(v, list) and _ids(v) for v in value):
        return tuple(value)
    raise ApiError(400, f"prompt must be {wanted}, all of one kind", param="prompt")


def _ids(value: Iterable[Any]) -> bool:
    return all(isinstance(v, int) and not isinstance(v, bool) for v in value)


# ----------------------------------------------------------------------------------- answers


def dumps(value: Any) -> str:
    """JSON in one line. Text in any language as it is; lone surrogates cannot occur."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def logprobs_of(made: Sequence[Made], texts: Sequence[str], offsets: Sequence[int],
                names: Mapping[int, str], count: int) -> dict[str, Any]:  # fmt: skip
    """The `logprobs` of a choice, or of a piece of it: the text each token added and where it
    begins, and `count` alternatives by their `names`."""
    return {
        "tokens": list(texts),
        "token_logprobs": [_finite(token.logprob) for token in made],
        "top_logprobs": [
            {names[i]: _finite(logprob) for i, logprob in token.alternatives[:count]}
            for token in made
        ] if count else None,
        "text_offset": list(offsets),
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
