"""The fields of a request, checked one by one, and the error that says what is wrong with one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lm.errors import UserError, did_you_mean
from lm.generate.sampling import SamplingConfig

MOST_STOPS = 16


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


def kind_of(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a whole number", float: "a number", str: "a string"}
    kinds |= {list: "an array", dict: "an object"}
    return kinds.get(type(value), "null")


def wrong(name: str, wanted: str, value: Any) -> ApiError:
    return ApiError(400, f"{name} must be {wanted}, not {kind_of(value)}", param=name)


def check_names(
    given: Mapping[str, Any], known: Sequence[str], neutral: Mapping[str, tuple[Any, ...]]
) -> None:
    """Raises ApiError for a name that is not known, and for a `neutral` one whose value asks for
    something."""
    for name, value in given.items():
        if name in neutral:
            truth = isinstance(value, bool)
            if not any(value == ok and truth == isinstance(ok, bool) for ok in neutral[name]):
                raise ApiError(400, f"{name} is not supported; leave it out", param=name,
                               code="unsupported_parameter")  # fmt: skip
        elif name not in known:
            raise ApiError(400, f"unknown parameter {name!r}{did_you_mean(name, known)}",
                           param=name, code="unknown_parameter")  # fmt: skip


def typed(given: Mapping[str, Any], name: str, kind: type, wanted: str, default: Any) -> Any:
    value = given.get(name, default)
    if not isinstance(value, kind):
        raise wrong(name, wanted, value)
    return value


def whole(given: Mapping[str, Any], name: str, default: Any, least: int, most: int) -> Any:
    value = given.get(name)
    if value is None:
        return default if default is None else min(default, most)
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong(name, "a whole number", value)
    if not least <= value <= most:
        raise ApiError(400, f"{name} must be from {least} to {most}, not {value}", param=name)
    return value


def sampling_of(given: Mapping[str, Any], name: str) -> float:
    value = given.get(name, 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(name, "a number", value)
    try:
        values: dict[str, Any] = {name: float(value)}
        SamplingConfig(**values)
    except (UserError, OverflowError) as error:
        raise ApiError(400, str(error), param=name) from None
    return float(value)


def stops_of(value: Any) -> tuple[str, ...]:
    stops = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
    if not isinstance(value, str | list | tuple) or not all(isinstance(s, str) for s in stops):
        raise ApiError(400, "stop must be a string or an array of strings", param="stop")
    if len(stops) > MOST_STOPS:
        raise ApiError(400, f"stop has {len(stops)} strings, at most {MOST_STOPS}", param="stop")
    if "" in stops:
        raise ApiError(400, "a stop string cannot be empty", param="stop")
    return stops


def prompts_of(value: Any) -> tuple[str | list[int], ...]:
    wanted = "a string, an array of strings, of token ids, or of arrays of token ids"
    if value is None:
        raise ApiError(400, f"prompt is required: {wanted}", param="prompt")
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise wrong("prompt", wanted, value)
    if not value:
        raise ApiError(400, "prompt is an empty array", param="prompt")
    if all(isinstance(v, str) for v in value):
        return tuple(value)
    if ids(value):
        return (value,)
    if all(isinstance(v, list) and ids(v) for v in value):
        return tuple(value)
    raise ApiError(400, f"prompt must be {wanted}, all of one kind", param="prompt")


def ids(value: Iterable[Any]) -> bool:
    return all(isinstance(v, int) and not isinstance(v, bool) for v in value)
