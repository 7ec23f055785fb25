"""One request's sequences, and what comes of them: an answer whole, or as server-sent events."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from lm.config import DataConfig
from lm.data.tokenizer import Tokenizer
from lm.serve import api
from lm.serve.api import ApiError, CompletionRequest, Limits
from lm.serve.slots import Sampling
from lm.serve.worker import Job, Line, Piece, Worker

CLIENT_GONE = 499

Status = Literal["compiling", "ready", "draining", "failed"]


@dataclass
class Service:
    """What the endpoints share. `name` is the model's; `vocab_size` bounds token ids."""

    name: str
    tokenizer: Tokenizer
    data: DataConfig
    vocab_size: int
    limits: Limits
    worker: Worker
    status: Status = "compiling"
    created: int = field(default_factory=lambda: int(time.time()))
    # One thread, so that a long text keeps neither the event loop nor the tokenizer from others.
    encoder: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="lm-serve-encoder")
    )


@dataclass
class Record:
    """What is logged of a request."""

    status: int = 500
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Answer:
    """One request's job, and what comes of it."""

    def __init__(self, service: Service, wanted: CompletionRequest, prompts: Sequence[list[int]],
                 record: Record) -> None:  # fmt: skip
        self._service, self._wanted, self._record = service, wanted, record
        self._heads = {"id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion",
                       "created": int(time.time()), "model": service.name}  # fmt: skip
        self._said: asyncio.Queue[list[Piece] | ApiError] = asyncio.Queue()
        self._left = len(prompts) * wanted.n
        record.prompt_tokens = sum(map(len, prompts))
        loop = asyncio.get_running_loop()

        def deliver(said: list[Piece] | ApiError) -> None:
            # A loop that is closed has nobody left to tell.
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._said.put_nowait, said)

        self.job = Job(deliver)
        for index, prompt in enumerate(prompts):
            for sequence in range(wanted.n):
                sampling = Sampling(
                    wanted.seed, index, sequence, wanted.temperature, wanted.top_p,
                    alternatives=bool(wanted.logprobs),
                )  # fmt: skip
                self.job.lines.append(Line(
                    self.job, len(self.job.lines), prompt, wanted.max_tokens, sampling,
                    wanted.stop, service.tokenizer,
                ))  # fmt: skip

    async def next(self) -> list[Piece]:
        """What was said next. Raises ApiError where nothing more will be."""
        said = await self._said.get()
        if isinstance(said, ApiError):
            raise said
        for piece in said:
            self._record.completion_tokens += len(piece.made)
            self._left -= piece.reason is not None
        return said

    async def whole(self) -> dict[str, Any]:
        """Everything that is said, in one answer."""
        whole = [
            Piece(choice, self._echo(choice), [], [], [], None)
            for choice in range(len(self.job.lines))
        ]
        while self._left:
            for piece in await self.next():
                into = whole[piece.choice]
                into.text += piece.text
                into.made += piece.made
                into.texts += piece.texts
                into.offsets += piece.offsets
                into.reason = piece.reason
        choices = [self._choice(piece) for piece in whole]
        return {**self._heads, "choices": choices, "usage": self._usage()}

    async def events(self, said: list[Piece]) -> AsyncIterator[str]:
        """Server-sent events, beginning with what was said first."""
        echoed: set[int] = set()
        try:
            while True:
                for piece in said:
                    if piece.choice not in echoed:
                        piece.text = self._echo(piece.choice) + piece.text
                        echoed.add(piece.choice)
                    wanted = self._wanted.logprobs is not None and piece.made
                    if piece.text or piece.reason or wanted:
                        yield self._event({"choices": [self._choice(piece)]})
                if not self._left:
                    break
                said = await self.next()
            if self._wanted.include_usage:
                yield self._event({"choices": [], "usage": self._usage()})
            yield "data: [DONE]\n\n"
        except ApiError as error:
            self._record.status = error.status
            yield f"data: {api.dumps(error.body)}\n\n"

    def close(self) -> None:
        """The stream has ended, or its client has gone."""
        if self._left and self._record.status == 200:
            self._record.status = CLIENT_GONE
        self._service.worker.cancel(self.job)

    def _event(self, content: dict[str, Any]) -> str:
        return f"data: {api.dumps({**self._heads, **content})}\n\n"

    def _echo(self, choice: int) -> str:
        if not self._wanted.echo:
            return ""
        prompt = self._wanted.prompts[choice // self._wanted.n]
        return prompt if isinstance(prompt, str) else self._service.tokenizer.decode(prompt)

    def _usage(self) -> dict[str, int]:
        return api.usage(self._record.prompt_tokens, self._record.completion_tokens)

    def _choice(self, piece: Piece) -> dict[str, Any]:
        count = self._wanted.logprobs
        logprobs = None
        if count is not None:
            ids = sorted({i for made in piece.made for i, _ in made.alternatives})
            names = dict(zip(ids, self._service.tokenizer.pieces(ids)))
            logprobs = api.logprobs_of(piece.made, piece.texts, piece.offsets, names, count)
        return {"text": piece.text, "index": piece.choice, "logprobs": logprobs,
                "finish_reason": piece.reason}  # fmt: skip


class Events(StreamingResponse):
    """An answer as server-sent events, closed however it ends."""

    def __init__(self, answer: Answer, first: list[Piece]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(answer.events(first), 200, headers, media_type="text/event-stream")
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.close()
