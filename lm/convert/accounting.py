"""Every tensor and every parameter accounted for, on both sides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.config import ModelConfig
from lm.convert.layout import Plan, Rule
from lm.convert.tensors import Reference, Tensor
from lm.errors import UserError
from lm.model import build_model
from lm.train.restoring import named_shapes

# Differences that an error lists.
_LISTED = 8


def parameter_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter of a model, by path, without making one."""
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    source = {"source": tokens} if model.architecture == "encoder_decoder" else {}
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(build_model(model).init, key, tokens, **source)
    return named_shapes(nn.meta.unbox(variables["params"]))


def account(reference: Reference, plan: Plan, model: ModelConfig) -> tuple[str, ...]:
    """Checks that tensors and parameters correspond; the names of the tensors that hold nothing
    that was learned.

    Raises:
      UserError: naming the first tensors that are missing, left over, of another shape, or not
        equal to the one they are tied to.
    """
    shapes, tensors = parameter_shapes(model), reference.tensors
    check_covers(plan.rules, shapes)
    wrong: list[str] = []
    for rule in plan.rules:
        wanted = rule.layout.reference_shape([shapes[path] for path in rule.parameters])
        found = tensors.get(rule.reference)
        if found is None:
            wrong.append(
                f"{rule.reference}: missing; the config says {list(wanted)} "
                f"(for {', '.join(rule.parameters)})"
            )
        elif found.shape != wanted:
            wrong.append(
                f"{rule.reference}: is {list(found.shape)}, the config says {list(wanted)}"
            )
        elif found.dtype.kind not in "fV":  # V: bfloat16, to numpy
            wrong.append(f"{rule.reference}: is of {found.dtype}, which no weight is")
    known = {rule.reference for rule in plan.rules} | set(plan.duplicates)
    ignored = []
    for name, tensor in tensors.items():
        if name in known:
            continue
        if any(re.fullmatch(pattern, name) for pattern in plan.ignored):
            ignored.append(name)
        else:
            wrong.append(f"{name}: left over, {list(tensor.shape)}; the model has no place for it")
    if not wrong:
        wrong = list(_unequal(tensors, plan.duplicates))
    if wrong:
        more = f"\n  ... and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
        raise UserError(
            f"the tensors in {reference.path} are not those of its config "
            f"(model_type {reference.config.get('model_type')!r}):\n"
            + "\n".join(f"  {line}" for line in wrong[:_LISTED])
            + more
        )
    return tuple(ignored)


def check_covers(rules: Iterable[Rule], shapes: Mapping[str, Any]) -> None:
    """Raises ValueError where the rules do not name every parameter exactly once: a family's plan
    is wrong then, which no user can mend."""
    named = [path for rule in rules for path in rule.parameters]
    if sorted(named) != sorted(shapes):
        twice = {path for path in named if named.count(path) > 1}
        differ = sorted({*named} ^ {*shapes} | twice)
        raise ValueError(f"the family's plan and the model disagree on: {', '.join(differ[:10])}")


def _unequal(tensors: Mapping[str, Tensor], duplicates: Mapping[str, str]) -> Iterable[str]:
    for name, original in duplicates.items():
        if name not in tensors:
            continue
        if original not in tensors:
            yield f"{name}: is tied to {original}, which is missing"
        elif tensors[name].shape != tensors[original].shape:
            shapes = list(tensors[name].shape), list(tensors[original].shape)
            yield f"{name}: is {shapes[0]}, and {original}, which it is tied to, {shapes[1]}"
        elif not np.array_equal(_bits(tensors[name]), _bits(tensors[original])):
            yield f"{name}: differs from {original}, which it is tied to"


def _bits(tensor: Tensor) -> np.ndarray:
    """So that a NaN is equal to itself."""
    return np.ascontiguousarray(tensor.read(), np.float32).view(np.uint32)
