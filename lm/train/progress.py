"""Progress of a run on stderr: a bar on a terminal, a line every few seconds in a log file."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

LOG_SECONDS = 10.0


class Progress:
    """Shows steps done, loss, tokens/s and the time left.

    The loss shown is smoothed over about ten steps; metrics.jsonl has the exact values.
    """

    def __init__(self, total: int, start: int) -> None:
        self._total, self._done, self._start = total, start, start
        self._loss: float | None = None
        self._rate: float | None = None
        self._began = self._printed = time.monotonic()
        self._bar = (
            tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, smoothing=0.05)
            if sys.stderr.isatty()
            else None
        )

    def note(self, text: str) -> None:
        """A line above the bar."""
        if self._bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.write(text, file=sys.stderr)

    def update(self, steps: int, loss: float, tokens_per_second: float | None) -> None:
        self._done += steps
        keep = 0.9**steps
        self._loss = loss if self._loss is None else keep * self._loss + (1 - keep) * loss
        self._rate = tokens_per_second or self._rate
        rate = f"{self._rate:,.0f} tokens/s" if self._rate else "..."
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {self._loss:.3f}, {rate}", refresh=False)
            self._bar.update(steps)
            return
        now = time.monotonic()
        if now - self._printed >= LOG_SECONDS or self._done == self._total:
            self._printed = now
            left = (now - self._began) / (self._done - self._start) * (self._total - self._done)
            eta = f"{int(left) // 60}:{int(left) % 60:02d}"
            self.note(f"step {self._done}/{self._total}  loss {self._loss:.3f}  {rate}  ETA {eta}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
