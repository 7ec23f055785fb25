"""From nested values to dataclasses and back, strictly."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

from lm.errors import ConfigError, did_you_mean

T = TypeVar("T")


def from_dict(cls: type[T], values: Mapping[str, Any], path: str = "config") -> T:
    """A frozen dataclass from a nested mapping (a ConfigDict, or JSON read back), strictly.

    Raises:
      ConfigError: unknown key (with the nearest known one), missing key, wrong type, or a value
        the dataclass itself refuses; the message names the path.
    """
    return typing.cast(T, _convert(cls, values, path))


def _fail(path: str, expected: str, value: Any) -> typing.NoReturn:
    raise ConfigError(f"{path}: expected {expected}, got {value!r} ({type(value).__name__})")


def _convert(kind: Any, value: Any, path: str) -> Any:
    """`value` as an instance of the annotation `kind`."""
    origin = typing.get_origin(kind)
    if origin is Literal:
        options = typing.get_args(kind)
        if value not in options:
            hint = did_you_mean(value, options) if isinstance(value, str) else ""
            _fail(path, f"one of {', '.join(map(repr, options))}{hint}", value)
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(typing.get_args(kind), value, path)
    if origin is tuple:
        return _convert_tuple(typing.get_args(kind), value, path)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            _fail(path, "a mapping from names to values", value)
        _, item = typing.get_args(kind)
        return {str(k): _convert(item, v, f"{path}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(typing.cast(type, kind), value, path)
    return _convert_scalar(kind, value, path)


def _convert_scalar(kind: type, value: Any, path: str) -> Any:
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            _fail(path, "a finite number", value)
        return float(value)
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is int and isinstance(value, float) and value.is_integer():
        # 1e4 is how people write large counts.
        return int(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    if kind is type(None) and value is None:
        return None
    _fail(
        path,
        {int: "a whole number", float: "a number", str: "text", bool: "True or False"}.get(
            kind, str(kind)
        ),
        value,
    )


def _convert_tuple(items: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        _fail(path, "a list or tuple", value)
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_convert(items[0], v, f"{path}[{i}]") for i, v in enumerate(value))
    if len(value) != len(items):
        _fail(path, f"{len(items)} values", value)
    return tuple(
        _convert(k, v, f"{path}[{i}]") for i, (k, v) in enumerate(zip(items, value, strict=True))
    )


def _convert_union(members: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in members:
        return None
    members = tuple(m for m in members if m is not type(None))
    if len(members) == 1:
        return _convert(members[0], value, path)
    tagged = {
        f.default: m
        for m in members
        if dataclasses.is_dataclass(m)
        for f in dataclasses.fields(m)
        if f.name == "kind"
    }
    if tagged:
        if type(value) in tagged.values():
            return value
        if not isinstance(value, Mapping) or "kind" not in value:
            _fail(
                path, f"a mapping with kind = one of {', '.join(sorted(map(str, tagged)))}", value
            )
        if value["kind"] not in tagged:
            hint = did_you_mean(str(value["kind"]), map(str, tagged))
            raise ConfigError(f"{path}.kind: no such kind {value['kind']!r}{hint}")
        return _convert(tagged[value["kind"]], value, path)
    for member in members:
        try:
            return _convert(member, value, path)
        except ConfigError:
            continue
    _fail(path, " or ".join(getattr(m, "__name__", str(m)) for m in members), value)


def _convert_dataclass(cls: type, value: Any, path: str) -> Any:
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        _fail(path, f"a mapping with the fields of {cls.__name__}", value)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in value:
        if key not in fields:
            hint = did_you_mean(key, fields)
            if "kind" not in fields:
                raise ConfigError(f"{path}.{key}: unknown key{hint}")
            kind = fields["kind"].default
            raise ConfigError(
                f"{path}.{key}: unknown key for kind {kind!r}{hint}. To change the kind, replace "
                f"the whole of it: --{path}=\"{{'kind': {kind!r}, ...}}\""
            )
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise ConfigError(f"{path}.{name}: required, and not given")
    converted = {k: _convert(hints[k], v, f"{path}.{k}") for k, v in value.items()}
    try:
        return cls(**converted)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def to_dict(config: Any) -> dict[str, Any]:
    """The resolved config as JSON values, defaults written out; `from_dict` reads it back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def fingerprint(value: Any) -> str:
    """16 hex digits of the SHA-256 of a dataclass or of JSON values, independent of key order."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = to_dict(value)
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], path: str = ""
) -> list[tuple[str, Any, Any]]:
    """Leaves that differ between two resolved configs: (dotted key, old value, new value)."""
    found: list[tuple[str, Any, Any]] = []
    for key in sorted({*old, *new}):
        name, a, b = f"{path}{key}", old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{name}.")
        elif a != b or (key in old) != (key in new):
            found.append((name, a, b))
    return found


def apply_override(values: dict[str, Any], key: str, text: str) -> None:
    """Sets `a.b.c` in a nested dict to what `text` says: a Python literal, a bare word, or a
    number like 3e-4. Intermediate mappings are made; `from_dict` judges names and types."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    *parents, last = key.split(".")
    place = values
    for name in parents:
        child = place.setdefault(name, {})
        if not isinstance(child, dict):
            raise ConfigError(
                f"config.{key}: {name} is a value ({child!r}), it has no keys below it"
            )
        place = child
    place[last] = value
