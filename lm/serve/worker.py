"""The one thread that owns the device: takes waiting sequences in, hands tokens on as they come.

Each HTTP request is a `Job` of one or more `Line`s. Between two chunks of decoding the worker takes
in as many waiting lines as there are free rows, first come first served, ends those whose client
has gone, and delivers what was said.
"""

from __future__ import annotations

import math
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from lm.data.tokenizer import Tokenizer, stream_decoder
from lm.generate.text import StopBuffer
from lm.serve.api import ApiError
from lm.serve.metrics import Metrics
from lm.serve.slots import Made, Row, Sampling, Slots


@dataclass
class Piece:
    """What was added to one choice: text that is safe to show; the tokens, the text that each
    added, and where that begins. `reason` is given with the last piece."""

    choice: int
    text: str
    made: list[Made]
    texts: list[str]
    offsets: list[int]
    reason: str | None


# Called from the worker's thread with what was said, or with why nothing more will be.
Deliver = Callable[[list[Piece] | ApiError], None]


class Line(Row):
    """A sequence with its text."""

    def __init__(
        self,
        job: Job,
        choice: int,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling,
        stops: Sequence[str],
        tokenizer: Tokenizer,
        ends: frozenset[int] = frozenset(),
        *,
        scored: bool = False,
    ) -> None:
        """`stops` end it before such a string, `ends` and the tokenizer's eos after such a token,
        which is not shown. With `scored` the prompt's tokens count among the texts, and
        max_new_tokens may be 0: the prompt is all."""
        super().__init__(prompt, max(1, max_new_tokens), sampling, scored)
        self._silent = max_new_tokens == 0
        self.job, self.choice = job, choice
        self.reason: str | None = None
        self._tokenizer, self._buffer = tokenizer, StopBuffer(stops)
        self._ends = ends | {tokenizer.eos_id}
        self._length = 0
        self.prompt_texts: list[str] = []

    def begin(self) -> None:
        """Reads the prompt, on which the text of the first tokens may depend."""
        self.begun = time.monotonic()
        self._decoder = stream_decoder(self._tokenizer)
        self.prompt_texts = [self._decoder.push(token) for token in self.prompt]
        if self.scored:
            self._length = sum(map(len, self.prompt_texts))

    def push(self, made: Sequence[Made]) -> Piece:
        piece = Piece(self.choice, "", [], [], [], None)
        if self._silent:
            self.reason = piece.reason = "length"
            return piece
        for token in made:
            if self.reason is None:
                self._push(token, piece)
        if self.reason is None and self.made >= self.max_new_tokens:
            self._pass_on(self._decoder.finish(), piece)
            self._end("length", piece)
        piece.reason = self.reason
        return piece

    def _push(self, token: Made, piece: Piece) -> None:
        ended = token.token in self._ends
        text = self._decoder.finish() if ended else self._decoder.push(token.token)
        piece.made.append(token)
        piece.texts.append(text)
        piece.offsets.append(self._length)
        self._length += len(text)
        self._pass_on(text, piece)
        if ended:
            self._end("stop", piece)

    def _pass_on(self, text: str, piece: Piece) -> None:
        shown, stopped = self._buffer.push(text)
        piece.text += shown
        if stopped:
            self.reason = "stop"

    def _end(self, reason: str, piece: Piece) -> None:
        if self.reason is None:
            piece.text += self._buffer.finish()
            self.reason = reason


class Job:
    """One request's lines. `add` them, then `Worker.submit`."""

    def __init__(self, deliver: Deliver) -> None:
        self.deliver = deliver
        self.lines: list[Line] = []
        self.arrived = time.monotonic()
        self.started = False
        self.cancelled = False

    @property
    def done(self) -> bool:
        return all(line.reason is not None for line in self.lines)


class Worker:
    """Owns `slots`. At most `max_queue` lines wait, none longer than `queue_timeout` seconds."""

    def __init__(self, slots: Slots, *, max_batch: int, max_queue: int,
                 queue_timeout: float) -> None:  # fmt: skip
        self._slots = slots
        self._max_batch, self._max_queue = max_batch, max_queue
        self._queue_timeout = queue_timeout
        self.metrics = Metrics({
            "lm_queue_length": ("Sequences that wait.", lambda: self.waiting),
            "lm_running": ("Sequences on the device.", lambda: self.running),
        })  # fmt: skip
        self._changed = threading.Condition()
        self._queue: deque[Line] = deque()
        self._jobs: set[Job] = set()
        self._stopped = False
        self._seconds_a_line = 1.0
        self.running = 0
        self.thread = threading.Thread(target=self._run, name="lm-serve-worker", daemon=True)
        self._on_ready: Callable[[Exception | None], None] = lambda error: None

    # ------------------------------------------------------------------- from other threads

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def pending(self) -> int:
        """Requests that are not answered yet."""
        return len(self._jobs)

    def start(self, on_ready: Callable[[Exception | None], None]) -> None:
        """Begins to compile; `on_ready` gets None once that is done, or what went wrong."""
        self._on_ready = on_ready
        self.thread.start()

    def submit(self, job: Job) -> None:
        """Raises ApiError where the queue is full."""
        with self._changed:
            if len(self._queue) + len(job.lines) > self._max_queue:
                rounds = math.ceil(max(len(self._queue), 1) / self._max_batch)
                raise ApiError(
                    429, f"the queue is full: {len(self._queue)} sequences wait of at most "
                    f"{self._max_queue}", code="queue_full",
                    retry_after=min(60, math.ceil(rounds * self._seconds_a_line)),
                )  # fmt: skip
            self._queue.extend(job.lines)
            self._jobs.add(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """The job's lines end, soon; nothing more is delivered."""
        with self._changed:
            job.cancelled = True
            self._forget(job)

    def abort(self, error: ApiError) -> None:
        """Answers every request with `error`."""
        with self._changed:
            self._fail(list(self._jobs), error)

    def stop(self) -> None:
        """The thread ends after this chunk."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    # ----------------------------------------------------------------------- in its thread

    def _run(self) -> None:
        try:
            self._slots.warm_up(lambda: self._stopped)
        except Exception as error:
            traceback.print_exc()
            self._on_ready(error)
            return
        self._on_ready(None)
        while True:
            with self._changed:
                while not (self._stopped or self._queue or self._slots.rows):
                    self._changed.wait()
                if self._stopped:
                    return
                new = self._take()
            try:
                self._round(new)
            except Exception:
                print("lm serve: a batch failed", file=sys.stderr)
                traceback.print_exc()
                failed = {line.job for line in [*new, *self._lines()]}
                self._slots.clear()
                message = "the model failed on this batch; the server's log says why"
                with self._changed:
                    self._fail(list(failed), ApiError(500, message, code="batch_failed"))
            self.running = len(self._slots.rows)

    def _take(self) -> list[Line]:
        """As many waiting lines as there is room for; the others, if late, are sent away. Holding
        the lock."""
        room = self._max_batch - len([line for line in self._lines() if not line.job.cancelled])
        new = [self._queue.popleft() for _ in range(min(room, len(self._queue)))]
        for line in new:
            line.job.started = True
        late = time.monotonic() - self._queue_timeout
        error = ApiError(
            503,
            f"waited longer than {self._queue_timeout:g} s for a free place",
            code="queue_timeout",
            retry_after=1,
        )
        self._fail([job for job in self._jobs if not job.started and job.arrived < late], error)
        return new

    def _lines(self) -> list[Line]:
        return cast(list[Line], self._slots.rows)

    def _round(self, new: Sequence[Line]) -> None:
        """Takes `new` in, and decodes a chunk."""
        for line in self._lines():
            if line.job.cancelled:
                self._slots.remove(line)
        if new:
            for line in new:
                line.begin()
            first = self._slots.join(new)
            self.running = len(self._slots.rows)
            now = time.monotonic()
            for job in {line.job: None for line in new}:
                self.metrics.first_token(now - job.arrived)
            self._hand_on([(line, [token]) for line, token in zip(new, first)])
        if self._slots.rows:
            self.metrics.batch(len(self._slots.rows))
            self._hand_on(cast(list[tuple[Line, list[Made]]], self._slots.advance()))

    def _hand_on(self, said: Sequence[tuple[Line, list[Made]]]) -> None:
        pieces: dict[Job, list[Piece]] = {}
        for line, made in said:
            pieces.setdefault(line.job, []).append(line.push(made))
            if line.reason is not None:
                self._slots.remove(line)
                seconds = time.monotonic() - line.begun
                self._seconds_a_line += 0.1 * (seconds - self._seconds_a_line)
        with self._changed:
            for job, of_job in pieces.items():
                if not job.cancelled:
                    job.deliver(of_job)
                if job.done:
                    self._jobs.discard(job)

    def _fail(self, jobs: Sequence[Job], error: ApiError) -> None:
        """Holding the lock."""
        for job in jobs:
            if not job.cancelled:
                job.cancelled = True
                self._forget(job)
                job.deliver(error)

    def _forget(self, job: Job) -> None:
        self._jobs.discard(job)
        if not all(line.made for line in job.lines):
            self._queue = deque(line for line in self._queue if line.job is not job)
