"""One case, compared in every way: the reference's results, and lm's from the same files."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.parity import ours, reference
from tests.parity.cases import Case, Inputs, batches, prompts
from tests.parity.errors import TOLERANCE, Errors, errors, visible


class Study:
    """One case: the reference's folder, and lm's model made of it."""

    def __init__(self, case: Case, folder: Path, *, decisive: bool = False) -> None:
        self.case, self.folder = case, folder
        seed = (case.generation or 0) if decisive else 0
        reference.make_folder(case, folder, seed, decisive=decisive)
        self.values = json.loads((folder / reference.CONFIG).read_text())
        self.tensors = load_file(folder / reference.WEIGHTS)
        self.converted = ours.convert(case, self.values, self.tensors)
        self.parameters = self.converted.to_lm(self.tensors)

    def compare(self, inputs: Inputs) -> dict[str, Errors]:
        """By column of the table: logits, hidden, loss, gradients, step."""
        case, converted = self.case, self.converted
        single = reference.compute(case, self.folder, inputs)
        double = reference.compute(case, self.folder, inputs, double=True)
        mine = ours.compute(case, converted.config, self.parameters, inputs)
        outputs = errors(*(visible(case, x.outputs, inputs) for x in (mine, single, double)))
        result: dict[str, Errors] = {"logits": {}, "hidden": {}, "loss": {}}
        for name, error in outputs.items():
            column = "loss" if name == "loss" else "hidden" if "/" in name else "logits"
            result[column][name] = error
        for column, field in (("gradients", "gradients"), ("step", "stepped")):
            single_, double_ = (converted.to_lm(getattr(x, field)) for x in (single, double))
            result[column] = errors(getattr(mine, field), single_, double_)
        return result

    def generate(self) -> tuple[list[list[int]], reference.Generated, float]:
        """Greedy tokens, the reference's, and the largest difference of log-probabilities."""
        given = prompts(self.case)
        theirs = reference.generate(self.case, self.folder, given)
        mine = ours.greedy(self.converted.config, self.parameters, given)
        logprobs = np.asarray([completion.logprobs for completion in mine])
        apart = float(np.max(np.abs(logprobs - theirs.logprobs)))
        return [completion.tokens for completion in mine], theirs, apart

    def round_trip(self) -> list[str]:
        """What is lost or changed on the way to lm and back; nothing, if all is well."""
        converted, problems = self.converted, []
        made, taken = ours.shapes(converted.config), self.parameters
        if {path: x.shape for path, x in taken.items()} != made:
            wrong = {p for p in {*made, *taken} if p not in taken or taken[p].shape != made.get(p)}
            problems.append(f"parameters that differ from the model's own: {sorted(wrong)}")
        back = converted.to_reference(taken)
        for name, x in back.items():
            if x.dtype != self.tensors[name].dtype or not np.array_equal(x, self.tensors[name]):
                problems.append(f"{name} came back changed")
        if self.case.silenced:
            return problems
        left = ours.unaccounted(converted, self.tensors)
        if left:
            problems.append(f"tensors that nothing accounts for: {left}")
        with tempfile.TemporaryDirectory() as folder:
            problems += self._reloaded(Path(folder), back)
        return problems

    def _reloaded(self, folder: Path, tensors: Mapping[str, np.ndarray]) -> Iterator[str]:
        """transformers reads what was written, and computes the same."""
        values = self.converted.family.write_config(self.converted.config)
        # Special tokens are the tokenizer's, which these folders have not got.
        special = {k: v for k, v in self.values.items() if k.endswith("_token_id")}
        (folder / reference.CONFIG).write_text(json.dumps({**special, **values}))
        contiguous = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
        save_file(contiguous, folder / reference.WEIGHTS, metadata={"format": "pt"})
        if self.case.model not in values["architectures"]:
            yield f"written as {values['architectures']}, not as {self.case.model}"
        for batch, inputs in batches(self.case).items():
            # How much memory XLNet keeps is the caller's affair here.
            before, after = (
                visible(self.case, reference.outputs(self.case, where, inputs), inputs)
                for where in (self.folder, folder)
            )
            # Not bit for bit: where a tensor lies in memory decides how torch sums.
            for name, error in errors(after, before, before).items():
                if error.apart > TOLERANCE:
                    yield f"{batch}: {name} differs once written and loaded by transformers"


@functools.cache
def study(case: Case, *, decisive: bool = False) -> Study:
    """Made once a process, in a folder that goes with it."""
    folder = tempfile.TemporaryDirectory(prefix="parity-")
    _FOLDERS.append(folder)
    return Study(case, Path(folder.name), decisive=decisive)


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []
