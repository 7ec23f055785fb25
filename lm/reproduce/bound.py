"""`python -m lm.reproduce.bound PID COMMAND...` becomes COMMAND, which the system asks to stop
(SIGTERM) when the process PID, its parent, ends: nothing goes on training that nobody watches.

Linux alone can do that; elsewhere a killed sweep leaves its runs to end by themselves.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from lm.errors import EXIT_PREEMPTED

# prctl's option, of <linux/prctl.h>; it lasts through exec.
_PARENT_DEATH_SIGNAL = 1


def main(parent: int, command: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        # It may have ended before it could be bound to.
        if os.getppid() != parent:
            sys.exit(EXIT_PREEMPTED)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
