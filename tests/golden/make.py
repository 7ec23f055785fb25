"""Makes the golden files: what transformers computed, for tests that have no torch.

    python -m tests.golden.make        (after make test-parity, which installs what it needs)

One .npz a case, its keys:
  config, shapes, values       the reference's config.json; the checkpoint's tensors, {name: shape},
                               and their numbers one after another, as multiples of GRID
  input/NAME                   what goes in: the batch called "padded"
  output/NAME                  logits and loss, in float64
  digests                      {name: [*digest, error]} of all outputs and gradients, in float64,
                               and the relative error of the reference's own in float32
  decisive/...                 config, shapes and values of another checkpoint, whose greedy choices
                               are clear, and tokens, what it says to the case's prompts
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tests.golden.digest import FOLDER, GOLDEN, GRID, digest
from tests.parity import reference
from tests.parity.cases import CASES, Case, batches, prompts
from tests.parity.errors import errors, visible

# Rounding moves these logits by about 1e-5.
CLEAR_LEAD = 1e-3


def checkpoint(case: Case, folder: Path, *, decisive: bool = False) -> dict[str, np.ndarray]:
    """Makes a folder; what the golden file has of it."""
    seed = (case.generation or 0) if decisive else 0
    reference.make_folder(case, folder, seed, decisive=decisive, grid=GRID)
    tensors = load_file(folder / reference.WEIGHTS)
    values = np.concatenate([x.ravel() for x in tensors.values()]) / GRID
    assert np.array_equal(values, np.round(values).astype(np.int16))
    return {
        "config": text(json.loads((folder / reference.CONFIG).read_text())),
        "shapes": text({name: x.shape for name, x in tensors.items()}),
        "values": values.astype(np.int16),
    }


def golden(case: Case, folder: Path) -> dict[str, np.ndarray]:
    """The contents of a case's file."""
    arrays = checkpoint(case, folder)
    names = json.loads(str(arrays["shapes"]))
    inputs = batches(case)["padded"]
    arrays |= {f"input/{name}": x for name, x in inputs.items()}
    single, double = (
        reference.compute(case, folder, inputs, double=exactly) for exactly in (False, True)
    )
    outputs, in_float32 = (visible(case, x.outputs, inputs) for x in (double, single))
    arrays |= {f"output/{name}": x for name, x in outputs.items() if "/" not in name}
    gradients, gradients_in_float32 = ({n: x.gradients[n] for n in names} for x in (double, single))
    digests = {}
    for exact, own in ((outputs, in_float32), (gradients, gradients_in_float32)):
        found = errors(own, own, exact)
        digests |= {n: (*digest(x), found[n].reference) for n, x in exact.items()}
    arrays["digests"] = text(digests)
    return arrays


def text(value: Any) -> np.ndarray:
    return np.asarray(json.dumps(value))


def main() -> int:
    total = 0
    for case in CASES:
        if case.name not in GOLDEN:
            continue
        with tempfile.TemporaryDirectory() as folder:
            arrays = golden(case, Path(folder))
        if case.generation is not None:
            with tempfile.TemporaryDirectory() as folder:
                more = checkpoint(case, Path(folder), decisive=True)
                generated = reference.generate(case, Path(folder), prompts(case))
            assert generated.lead > CLEAR_LEAD, (case.name, generated.lead)
            arrays |= {f"decisive/{name}": x for name, x in more.items()}
            arrays["decisive/tokens"] = np.asarray(generated.tokens)
        path = FOLDER / f"{case.name}.npz"
        np.savez_compressed(path, **arrays)
        total += path.stat().st_size
        print(f"{path.name}  {path.stat().st_size / 1000:.0f} kB")
    print(f"{total / 1000:.0f} kB in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
