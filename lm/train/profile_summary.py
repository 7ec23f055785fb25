"""What a trace of training steps comes to: time by part of the model, by kind, by operation."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lm.train.hlo import Instruction, part_of, read_program
from lm.train.trace import MOST_EVENTS, Times, account, read_trace

# Scopes around the whole step, and those that differentiation makes.
_OUTER = re.compile(
    r"(while|body|closed_call|shard_map|jit\((train|_fun)\)|.*jvp\(.*|transpose\(.*)$"
)
COMMUNICATION, OTHER_PROGRAMS = "between devices", "other programs"
DATA, GAPS = "waiting for data", "gaps (device idle)"
PARTS = (
    "attention projections", "attention scores", "mlp", "norms", "embedding", "logits", "loss",
    "optimizer", "other", COMMUNICATION, OTHER_PROGRAMS, DATA, GAPS,
)  # fmt: skip
# Operations in the file, and in the table; the widest name that keeps three scopes.
_LISTED, _SHOWN, _WIDTH = 40, 12, 36


def summarise(path: Path, program: str, first: int, last: int) -> dict[str, Any]:
    """What the trace at `path` of the steps after `first` up to `last` says, as JSON values: times
    in milliseconds a step, shares of the wall time.

    Args:
      program: the HLO text of the training step.

    Raises:
      ValueError: the trace is too large to be whole, or is none of profiled steps.
    """
    trace = read_trace(path)
    if trace.truncated:
        raise ValueError(
            f"the trace has {MOST_EVENTS} events, the most that are written: profile fewer steps"
        )
    found = re.match(r"HloModule ([\w.\-]+)", program)
    module, instructions = found[1] if found else "", read_program(program)
    times = account(trace, instructions, module)
    # All layers together, whose operations have the same scopes.
    works: dict[_Work, float] = defaultdict(float)
    for key, time in times.operations.items():
        works[_work(key, instructions, module)] += time
    wall = trace.window[1] - trace.window[0]
    scale = _Scale(wall, last - first)
    longest = sorted(works.items(), key=lambda item: -item[1])[:_LISTED]
    return {
        "first_step": first,
        "last_step": last,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        **scale(wall),
        **_sums(works, times, scale),
        "operations": [{**work._asdict(), **scale(time)} for work, time in longest],
    }


@dataclass(frozen=True)
class _Scale:
    """Microseconds in all to milliseconds a step, and to the share of the wall time."""

    wall: float
    steps: int

    def __call__(self, microseconds: float) -> dict[str, float]:
        return {
            "ms": round(microseconds / 1e3 / self.steps, 4),
            "share": round(microseconds / self.wall, 5),
        }


class _Work(NamedTuple):
    """What an operation is, for people."""

    name: str
    kind: str
    part: str
    direction: str


def _work(key: tuple[str, str], program: Mapping[str, Instruction], module: str) -> _Work:
    """Of an operation of the program called `module`, of another one, or a transfer."""
    plain = re.sub(r"[.\d]+$", "", key[1])
    found = program.get(key[1]) if key[0] in (module, "") else None
    if found is None:
        return _Work(plain, OTHER_PROGRAMS, OTHER_PROGRAMS, "")
    if found.kind == "collective":
        # It may carry the gradients of every part at once.
        return _Work(plain, found.kind, COMMUNICATION, "")
    part = part_of(found.op_name)
    direction = "backward" if "transpose(" in found.op_name else "forward"
    if part in ("optimizer", "other"):
        direction = ""
    return _Work(_short(found.op_name) or plain, found.kind, part, direction)


def _sums(works: Mapping[_Work, float], times: Times, scale: _Scale) -> dict[str, Any]:
    """By part of the model (and of that the matrix products), and by kind of work."""
    parts: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    products: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    kinds: dict[str, float] = defaultdict(float)
    for work, time in works.items():
        parts[work.part] += time
        kinds[work.kind] += time
        products[work.part] += time if work.kind == "matmul" else 0.0
    parts[DATA], parts[GAPS] = times.data, times.gaps
    kinds[DATA], kinds[GAPS] = times.data, times.gaps
    return {
        "parts": {
            name: {**scale(time), "matmul": scale(products[name])} for name, time in parts.items()
        },
        "kinds": {
            name: scale(time) for name, time in sorted(kinds.items(), key=lambda item: -item[1])
        },
    }


def _short(op_name: str) -> str:
    """The last scopes: "mlp/up/dot_general" of "jit(train)/.../Block/mlp/up/dot_general"."""
    names = [name for name in op_name.split("/") if not _OUTER.match(name)]
    short = "/".join(names[-3:])
    return short if len(short) <= _WIDTH else "/".join(names[-2:])


def table(values: Mapping[str, Any]) -> str:
    """The summary for people."""
    count = values["devices"]
    lines = [
        f"profile of steps {values['first_step']} to {values['last_step']}: {values['ms']:.4g} ms "
        f"a step on {count} x {values['device']}",
        "",
        f"{'part':<24}{'ms a step':>11}{'share':>9}{'of it matmul':>15}",
    ]
    for name, part in values["parts"].items():
        if part["ms"] or name in (DATA, GAPS):
            product = f"{part['matmul']['share']:>14.1%}" if part["matmul"]["ms"] else ""
            lines.append(f"{name:<24}{part['ms']:>11.3f}{part['share']:>9.1%}{product}")
    lines.append(f"{'all':<24}{values['ms']:>11.3f}{values['share']:>9.1%}")
    kinds = values["kinds"].items()
    shown = "; ".join(f"{name} {kind['share']:.1%}" for name, kind in kinds if kind["ms"])
    lines += ["", f"by kind: {shown}", ""]
    lines.append(f"{'operation':<48}{'ms a step':>11}{'share':>9}  kind")
    for row in values["operations"][:_SHOWN]:
        name = row["name"] + (", backward" if row["direction"] == "backward" else "")
        lines.append(f"{name[-47:]:<48}{row['ms']:>11.3f}{row['share']:>9.1%}  {row['kind']}")
    return "\n".join(lines)
