"""A compiled program's instructions: what kind of work each does, and for which part of the model.

The text is XLA's HLO, as `Compiled.as_text()` gives it; an instruction's `op_name` holds the scopes
of flax modules and `jax.named_scope` that it was traced in. A program that comes from the
compilation cache has the scopes with which it was compiled, those of an older version maybe.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import NamedTuple

# Of several in a fusion the first one is its kind.
KINDS = (
    "matmul", "fused attention", "collective", "transfer", "gather, scatter", "reduction", "random",
    "elementwise", "copy",
)  # fmt: skip
_CONTROL = {"while", "conditional"}
_COLLECTIVE = re.compile(
    r"(all-reduce|all-gather|all-to-all|reduce-scatter|collective|ragged-all|send|recv)"
)
_MATMUL_CALL = re.compile(r"gemm|matmul|conv|dot", re.IGNORECASE)
_MOVES = {
    "bitcast", "broadcast", "concatenate", "constant", "convert", "copy", "dynamic-slice",
    "dynamic-update-slice", "get-tuple-element", "pad", "parameter", "reshape", "reverse", "slice",
    "transpose", "tuple",
}  # fmt: skip
_KINDS = {
    "dot": "matmul", "convolution": "matmul",
    "reduce": "reduction", "reduce-window": "reduction", "sort": "reduction",
    "gather": "gather, scatter", "scatter": "gather, scatter",
    "rng": "random", "rng-bit-generator": "random",
}  # fmt: skip

_PROJECTIONS = {"query", "key", "value", "relative", "output", "_project"}
_HEADS = {"logits", "attend", "lm_head", "lm_transform", "lm_norm", "pooler"}


class Instruction(NamedTuple):
    """Of an instruction of a compiled program: its kind of work, and the scopes it comes from."""

    kind: str
    op_name: str


def read_program(text: str) -> dict[str, Instruction]:
    """The instructions of a compiled program by name, from its HLO text."""
    bodies: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    body = ""
    for line in text.splitlines():
        if line and not line[0].isspace():
            body = line.removeprefix("ENTRY ").split(" ", 1)[0].lstrip("%")
        elif found := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = .*? ([a-z][a-z0-9\-]*)\((.*)", line):
            bodies[body].append((found[1], found[2], found[3]))
    return {
        name: _instruction(opcode, rest, bodies)
        for lines in list(bodies.values())
        for name, opcode, rest in lines
    }


def _instruction(
    opcode: str, rest: str, bodies: Mapping[str, list[tuple[str, str, str]]]
) -> Instruction:
    inside: list[tuple[str, str, str]] = []
    if opcode in ("fusion", "call", "async-start") and (
        found := re.search(r"(?:calls|to_apply)=%?([\w.\-]+)", rest)
    ):
        inside = bodies.get(found[1], [])
    kinds = {_kind(op, more) for _, op, more in inside} or {_kind(opcode, rest)}
    kind = "control" if opcode in _CONTROL else next(kind for kind in KINDS if kind in kinds)
    own = _op_name(rest)
    products = [_op_name(more) for _, op, more in inside if _kind(op, more) == "matmul"]
    if products:
        return Instruction(kind, products[0] or own)
    if part_of(own) == "other":
        # A fusion's own name may say less than those of what was fused.
        known = Counter(name for _, _, more in inside if part_of(name := _op_name(more)) != "other")
        own = known.most_common(1)[0][0] if known else own
    return Instruction(kind, own)


def _kind(opcode: str, rest: str) -> str:
    if opcode == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', rest)
        called = target[1] if target else ""
        if "fmha" in called:
            return "fused attention"
        return "matmul" if _MATMUL_CALL.search(called) else "elementwise"
    if _COLLECTIVE.match(opcode):
        return "collective"
    if opcode in ("copy-start", "copy-done"):
        return "transfer"
    return _KINDS.get(opcode, "copy" if opcode in _MOVES else "elementwise")


def _op_name(rest: str) -> str:
    found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', rest)
    return found[1] if found else ""


def part_of(op_name: str) -> str:
    """The part of the model that the scopes of an operation name; "other" where they name none."""
    words = re.findall(r"\w+", op_name)
    known = set(words)
    if known & {"optimizer", "opt_state"}:
        return "optimizer"
    if known & {"attention", "cross_attention"}:
        return "attention projections" if known & _PROJECTIONS else "attention scores"
    if "mlp" in known:
        return "mlp"
    if known & _HEADS:
        return "logits"
    if any(word.endswith("_norm") for word in words):
        return "norms"
    if any(word.endswith(("embedding", "_embed")) for word in words):
        return "embedding"
    return "loss" if "loss" in known else "other"


def guess(name: str) -> str:
    """The kind of an operation of which only the name is known: of another program, or a copy."""
    plain = re.sub(r"[.\d]+$", "", name)
    if plain in _CONTROL:
        return "control"
    if _COLLECTIVE.match(plain):
        return "collective"
    if plain.startswith(("Memcpy", "copy-start", "copy-done")):
        return "transfer"
    return "matmul" if plain.startswith(("dot", "gemm")) else "elementwise"
