"""What a start does before its first step, and what it leaves for later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Stops the run when its first step has been dispatched, and says what was imported by then.
_UNTIL_THE_FIRST_STEP = """
import sys
from lm.parallel.sharded import Sharded
train = Sharded.train

def stop(self, state, batches):
    train(self, state, batches)
    print(*(name for name in sys.argv[1].split(",") if name in sys.modules))
    raise SystemExit(0)

Sharded.train = stop
from lm.cli.main import main
main(["train", "--config=experiments/quickstart.py:smoke", "--workdir=" + sys.argv[2]])
"""
LATER = ("grain", "orbax.checkpoint", "tensorstore", "tensorboardX", "matplotlib", "pandas")


def test_the_first_step_waits_for_no_import_that_it_does_not_need(workdir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _UNTIL_THE_FIRST_STEP, ",".join(LATER), str(workdir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
