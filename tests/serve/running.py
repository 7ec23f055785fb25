"""A server in this process, of a model that was never trained, and a client for it."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm.config import (
    CharacterTokenizer,
    Config,
    DataConfig,
    Duration,
    Embedded,
    InitConfig,
    Learned,
    ModelConfig,
    TrainConfig,
)
from lm.data.tokenizers.simple import Characters
from lm.objectives import build_objective
from lm.serve.server import Options, Server, build_service, listen
from lm.train.workdir import Run

ALPHABET = "abcdefghij .\n"
POSITIONS = 64


@functools.cache
def tiny_run() -> Run:
    tokenizer = Characters.train([ALPHABET])
    tokenizer.eos_id = tokenizer.encode("e")[0]
    model = ModelConfig(
        vocab_size=16,  # wider than the tokenizer's vocabulary
        num_layers=1,
        d_model=8,
        num_heads=2,
        d_ff=8,
        position=Learned(max_length=POSITIONS),
        init=InitConfig(stddev=0.6, scale_residual=False),
    )
    data = DataConfig(train={"t": Embedded()}, tokenizer=CharacterTokenizer(), sequence_length=32)
    config = Config(
        model=model, data=data, train=TrainConfig(batch_size=1, duration=Duration(steps=1))
    )
    objective = build_objective(config.objective, model)
    tokens = jnp.zeros((1, 4), jnp.int32)
    params = nn.unbox(jax.jit(objective.model.init)(jax.random.key(0), tokens))["params"]
    return Run(Path("tiny"), config, objective, objective.model, params, tokenizer, 7, {})


class Running:
    """A server and its address."""

    def __init__(self, server: Server, port: int) -> None:
        self.server, self.port = server, port
        self.worker = server.service.worker
        self.url = f"http://127.0.0.1:{port}"
        self.status: int | None = None

    def get(
        self,
        path: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, dict(response.headers), response.read()
        finally:
            connection.close()

    def ask(self, path: str = "/v1/completions", **body: Any) -> tuple[int, Any]:
        """The status and the answer, of a stream the events."""
        status, headers, answer = self.get(path, "POST", json.dumps(body).encode())
        if headers["content-type"].startswith("text/event-stream"):
            return status, [line.removeprefix("data: ") for line in answer.decode().split("\n\n")]
        return status, json.loads(answer)

    def text(self, **body: Any) -> str:
        status, answer = self.ask(**body)
        assert status == 200, answer
        return answer["choices"][0]["text"]

    def idle(self) -> None:
        """Waits until nothing runs or waits any more."""
        until(lambda: not (self.worker.pending or self.worker.waiting or self.worker.running))


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.005)


@contextlib.contextmanager
def serving(
    grace: float = 60.0, ready: bool = True, run: Run | None = None, **options: Any
) -> Iterator[Running]:
    """A server in a thread of its own; stopped, and its status known, at the end."""
    service = build_service(
        run or tiny_run(), Options(**{"max_batch": 4, "max_queue": 256, **options})
    )
    listening = listen("127.0.0.1", 0)
    running = Running(Server(service, listening, grace=grace), listening.getsockname()[1])

    def work() -> None:
        running.status = running.server.run()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        if ready:
            until(lambda: service.status != "compiling")
        yield running
    finally:
        until(lambda: hasattr(running.server, "_stopping"))
        if thread.is_alive():
            running.server.stop()
        thread.join(60)
        assert not thread.is_alive() and not running.worker.thread.is_alive()
