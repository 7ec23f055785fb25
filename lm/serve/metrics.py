"""Counters, gauges and histograms in Prometheus's text format, for several threads."""

from __future__ import annotations

import bisect
import threading
from collections import Counter
from collections.abc import Callable, Sequence

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class _Histogram:
    """How many observations were at most each of `bounds`."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> list[str]:
        total, lines = 0, []
        for bound, count in zip((*self.bounds, "+Inf"), self.counts):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{name}_sum {self.sum:.6g}", f"{name}_count {total}"]


class Metrics:
    """What /metrics says. `gauges`: a name's description and how to read it now."""

    def __init__(self, gauges: dict[str, tuple[str, Callable[[], float]]]) -> None:
        self._lock = threading.Lock()
        self._gauges = gauges
        self._requests: Counter[int] = Counter()
        self._tokens: Counter[str] = Counter({"prompt": 0, "completion": 0})
        self._latency = _Histogram(SECONDS)
        self._first = _Histogram(SECONDS)
        self._batch = _Histogram(ROWS)

    def request(self, status: int, seconds: float) -> None:
        """A completion request was answered; 499 where its client had gone."""
        with self._lock:
            self._requests[status] += 1
            if status == 200:
                self._latency.observe(seconds)

    def first_token(self, seconds: float) -> None:
        with self._lock:
            self._first.observe(seconds)

    def tokens(self, prompt: int, completion: int) -> None:
        with self._lock:
            self._tokens["prompt"] += prompt
            self._tokens["completion"] += completion

    def batch(self, rows: int) -> None:
        """A chunk was decoded for so many rows."""
        with self._lock:
            self._batch.observe(rows)

    def text(self) -> str:
        """The exposition format, version 0.0.4."""
        lines: list[str] = []

        def metric(name: str, kind: str, description: str, samples: Sequence[str]) -> None:
            lines.extend([f"# HELP {name} {description}", f"# TYPE {name} {kind}", *samples])

        with self._lock:
            metric("lm_requests_total", "counter", "Completion requests by HTTP status.", [
                f'lm_requests_total{{status="{s}"}} {n}' for s, n in sorted(self._requests.items())
            ])  # fmt: skip
            metric("lm_tokens_total", "counter", "Tokens of prompts read and completions made.", [
                f'lm_tokens_total{{kind="{k}"}} {n}' for k, n in sorted(self._tokens.items())
            ])  # fmt: skip
            for name, description, histogram in (
                ("lm_request_seconds", "From a request to the end of its answer.", self._latency),
                ("lm_first_token_seconds", "From a request to its first token.", self._first),
                ("lm_batch_rows", "Sequences decoded together, a chunk of steps.", self._batch),
            ):
                metric(name, "histogram", description, histogram.lines(name))
        for name, (description, read) in self._gauges.items():
            metric(name, "gauge", description, [f"{name} {read():g}"])
        return "\n".join(lines) + "\n"
