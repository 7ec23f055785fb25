"""From nothing to a first step in torch, as a script: what `lm train` has to start faster than.

`python -m lm.bench.peers.first_step SPECIFICATION.json SIGN`: writes the first step's loss to SIGN.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(specification: str, sign: str) -> None:
    """One eager step of `torch_train.Train`."""
    from lm.bench.peers.torch_train import Train

    values = json.loads(Path(specification).read_text(encoding="utf-8"))
    run = Train(**values, compiled=False, warmup=0, round_steps=1)
    run.start()
    run.round()
    Path(sign).write_text(json.dumps(run.finish()["losses"]["1"]), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
