"""Every family computes what transformers computed when the golden files were made (make.py beside
this): the checks of tests/parity, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from lm.convert.families import FAMILIES
from tests.golden.digest import FOLDER, GOLDEN, GRID, digest
from tests.parity import ours
from tests.parity.cases import CASES, Case, prompts
from tests.parity.errors import AS_EXACT, TOLERANCE, errors, sizes, visible

CHOSEN = [case for case in CASES if case.name in GOLDEN]
GENERATING = [case for case in CHOSEN if case.generation is not None]


def load(case: Case, prefix: str = "") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The file's arrays below a prefix, and the checkpoint's tensors."""
    with np.load(FOLDER / f"{case.name}.npz") as file:
        arrays = below(file, prefix)
    tensors, start = {}, 0
    for name, shape in json.loads(str(arrays["shapes"])).items():
        stop = start + int(np.prod(shape))
        tensors[name] = (arrays["values"][start:stop] * GRID).astype(np.float32).reshape(shape)
        start = stop
    assert start == arrays["values"].size
    return arrays, tensors


def model_of(case: Case, arrays: dict[str, np.ndarray], names: Any) -> ours.Converted:
    return ours.convert(case, json.loads(str(arrays["config"])), names)


def below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {n.removeprefix(prefix): arrays[n] for n in arrays if n.startswith(prefix)}


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
def test_tensors_come_back(case: Case) -> None:
    """Every tensor is a parameter of the model's, every parameter a tensor, bit for bit."""
    arrays, tensors = load(case)
    converted = model_of(case, arrays, tensors)
    parameters = converted.to_lm(tensors)
    back = converted.to_reference(parameters)

    assert {path: x.shape for path, x in parameters.items()} == ours.shapes(converted.config)
    assert ours.unaccounted(converted, tensors) == []
    assert set(back) <= set(tensors)
    assert all(np.array_equal(x, tensors[name]) for name, x in back.items())


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
def test_outputs_and_gradients(case: Case) -> None:
    """On rows of different lengths."""
    arrays, tensors = load(case)
    inputs = below(arrays, "input/")
    converted = model_of(case, arrays, tensors)

    computed = ours.compute(case, converted.config, converted.to_lm(tensors), inputs)

    outputs = visible(case, computed.outputs, inputs)
    # The file has the reference's results in float64.
    wanted = below(arrays, "output/")
    found = errors({name: outputs[name] for name in wanted}, wanted, wanted)
    wrong: dict[str, Any] = {name: e.lm for name, e in found.items() if e.lm > TOLERANCE}
    digests = json.loads(str(arrays["digests"]))
    for kind in (outputs, converted.to_reference(computed.gradients)):
        wrong |= different(kind, {name: digests.pop(name) for name in kind})
    assert not wrong
    # What is left are tied weights under their second name.
    assert set(digests) <= set(converted.plan.duplicates)


def different(found: dict[str, np.ndarray], wanted: dict[str, list[float]]) -> dict[str, Any]:
    """The tensors whose digests are further apart than rounding explains."""
    scales = sizes({name: np.asarray(largest) for name, (_, largest, _) in wanted.items()})
    wrong = {}
    for name, (*theirs, own) in wanted.items():
        apart = np.max(np.abs(np.subtract(digest(found[name]), theirs))) / scales[name]
        if apart > max(TOLERANCE, AS_EXACT * own):
            wrong[name] = apart
    return wrong


@pytest.mark.parametrize("case", GENERATING, ids=lambda case: case.name)
def test_greedy_tokens(case: Case) -> None:
    arrays, tensors = load(case, "decisive/")
    converted = model_of(case, arrays, tensors)

    completions = ours.greedy(converted.config, converted.to_lm(tensors), prompts(case))

    assert [completion.tokens for completion in completions] == arrays["tokens"].tolist()


def test_every_family_has_a_file() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.npz")) == sorted(GOLDEN)
    assert len(CHOSEN) == len(GOLDEN)
    families = {model_of(case, *load(case)).family.name for case in CHOSEN}
    assert families == {family.name for family in FAMILIES}
