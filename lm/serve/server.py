"""`lm serve`: the model of a run behind a socket, from its first compilation to a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn

from lm.errors import EXIT_FAILED, ConfigError, UserError
from lm.generate.prompts import reads_both_ways, reads_sources
from lm.model.cache import position_limit
from lm.objectives.tasks.instruction import InstructionObjective
from lm.serve.answer import Service
from lm.serve.api import ApiError, Limits
from lm.serve.app import build_app, log
from lm.serve.slots import Slots
from lm.serve.worker import Worker
from lm.train.workdir import Run

# Tokens of a prompt, and new ones, where neither flag nor model ends them.
PROMPT_TOKENS = 2048
NEW_TOKENS = 1024
# Seconds for answers to leave once they are all made, and for the worker to end its chunk.
_FLUSH = 5.0
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Options:
    """The flags of `lm serve`; None follows from the model."""

    host: str = "127.0.0.1"
    port: int = 8000
    max_batch: int = 8
    max_queue: int = 64
    max_prompt_tokens: int | None = None
    max_new_tokens: int | None = None
    queue_timeout: float = 60.0
    grace: float = 30.0


def build_service(run: Run, options: Options) -> Service:
    """The worker and what the endpoints need, nothing started yet.

    Raises:
      ConfigError: a model that cannot be served, or limits beyond its positions or the memory.
    """
    config = run.config.model
    if config.architecture != "decoder" or config.lm_head == "none":
        raise ConfigError(
            "lm serve continues prompts with a decoder; this model's architecture is "
            f"{config.architecture!r} with lm_head={config.lm_head!r} (lm generate also writes "
            "with encoder-decoders)"
        )
    if reads_sources(run.config):
        raise ConfigError(
            "lm serve continues prompts, and this model learned from pairs of texts, to write one "
            "after another: lm predict does that, and lm generate"
        )
    limits = _limits(position_limit(config), options)
    vocab_size = min(run.tokenizer.vocab_size, config.vocab_size)
    slots = Slots(
        run.model,
        run.params,
        vocab_size=vocab_size,
        eos_id=run.tokenizer.eos_id,
        max_batch=options.max_batch,
        max_tokens=limits.positions,
        both_ways=reads_both_ways(run.config),
    )
    worker = Worker(
        slots,
        max_batch=options.max_batch,
        max_queue=options.max_queue,
        queue_timeout=options.queue_timeout,
    )
    name, chat = run.workdir.absolute().name, None
    if isinstance(run.objective, InstructionObjective):
        chat = run.objective.chat(run.tokenizer, run.config.data)
    return Service(name, run.tokenizer, run.config.data, vocab_size, limits, worker, chat)


def _limits(positions: int | None, options: Options) -> Limits:
    """Raises ConfigError for limits beyond the model's positions."""
    prompt, new = options.max_prompt_tokens, options.max_new_tokens
    if positions is not None:
        for flag, value in (("max_prompt_tokens", prompt), ("max_new_tokens", new)):
            if value is not None and value >= positions:
                raise ConfigError(
                    f"--{flag}={value}: prompt and completion share the {positions} positions the "
                    f"model has, so at most {positions - 1}"
                )
    most = sys.maxsize if positions is None else positions - 1
    prompt = min(PROMPT_TOKENS, most) if prompt is None else prompt
    new = min(NEW_TOKENS, most) if new is None else new
    total = prompt + new if positions is None else min(prompt + new, positions)
    return Limits(prompt, new, total, options.max_queue)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises UserError where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror}") from None


class _Uvicorn(uvicorn.Server):
    """Leaves the signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Server:
    """A service on a listening socket. `run` it; `stop` may be called from any thread."""

    def __init__(self, service: Service, listening: socket.socket, *, grace: float) -> None:
        self.service, self._socket, self._grace = service, listening, grace
        self._uvicorn = _Uvicorn(uvicorn.Config(
            build_app(service), log_config=None, log_level="warning", access_log=False,
            lifespan="off", ws="none", server_header=False, timeout_graceful_shutdown=int(_FLUSH),
        ))  # fmt: skip

    def run(self, *, signals: bool = False) -> int:
        """Serves until `stop`, or with `signals` until SIGTERM or SIGINT: the exit status."""
        return asyncio.run(self._main(signals))

    def stop(self) -> None:
        """No new requests; those taken are finished within the grace time."""
        self._loop.call_soon_threadsafe(self._stopping.set)

    async def _main(self, signals: bool) -> int:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        if signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._on_signal, number)
        service, worker = self.service, self.service.worker
        worker.start(self._on_ready)
        serving = asyncio.create_task(self._uvicorn.serve(sockets=[self._socket]))
        await self._stopping.wait()
        failed = service.status == "failed"
        if not failed:
            await self._drain()
        worker.stop()
        self._uvicorn.should_exit = True
        await serving
        service.encoder.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(worker.thread.join, _FLUSH)
        return EXIT_FAILED if failed else 0

    def _on_ready(self, error: Exception | None) -> None:
        """In the worker's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ready, error)

    def _ready(self, error: Exception | None) -> None:
        if error is not None:
            log("lm serve: the model could not be compiled")
            self.service.status = "failed"
            self._stopping.set()
        elif self.service.status == "compiling":
            self.service.status = "ready"
            log("ready")

    def _on_signal(self, number: int) -> None:
        if self._stopping.is_set():
            log(f"{signal.Signals(number).name} again: exiting at once")
            os._exit(128 + number)
        pending = self.service.worker.pending
        log(f"{signal.Signals(number).name}: finishing {pending} requests within {self._grace:g} s")
        self._stopping.set()

    async def _drain(self) -> None:
        worker = self.service.worker
        self.service.status = "draining"
        end = self._loop.time() + self._grace
        while worker.pending and self._loop.time() < end:
            await asyncio.sleep(0.02)
        if worker.pending:
            log(f"{worker.pending} requests are not finished after {self._grace:g} s")
            message = (
                f"the server is shutting down, and {self._grace:g} s were not enough to finish"
            )
            worker.abort(ApiError(503, message, code="draining", retry_after=5))


def serve(run: Run, options: Options) -> int:
    """Serves the model of `run` until a signal ends it: the exit status."""
    service = build_service(run, options)
    listening = listen(options.host, options.port)
    host, port = listening.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    log(f"{service.name} (step {run.step}) on http://{address}, compiling; try:")
    log(
        f"  curl http://{address}/v1/completions -H 'Content-Type: application/json' "
        """-d '{"prompt": "Once upon", "max_tokens": 32}'"""
    )
    if options.host not in _LOCAL:
        log(f"{options.host} is not this machine alone: there is no authentication, whoever "
            "reaches it may use the model")  # fmt: skip
    server = Server(service, listening, grace=options.grace)
    status = server.run(signals=True)
    if service.worker.thread.is_alive():
        # It is compiling, which cannot be interrupted and does not survive Python's end.
        sys.stderr.flush()
        os._exit(status)
    return status
