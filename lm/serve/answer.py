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
from lm.objectives.tasks.instruction import Chat
from lm.serve import api
from lm.serve.api import ApiError, CompletionRequest, Limits
from lm.serve.slots import Sampling
from lm.serve.worker import Job, Line, Piece, Worker

CLIENT_GONE = 499

Status = Literal["compiling", "ready", "draining", "failed"]


@dataclass
class Service:
    """What the endpoints share. `name` is the model's; `vocab_size` bounds token ids; `chat` is how
    conversations are written, None for a model that was trained on none."""

    name: str
    tokenizer: Tokenizer
    data: DataConfig
    vocab_size: int
    limits: Limits
    worker: Worker
    chat: Chat | None = None
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
    """One request's job, and what comes of it: completions."""

    kind, chunk_kind, prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, service: Service, wanted: CompletionRequest, prompts: Sequence[list[int]],
                 record: Record) -> None:  # fmt: skip
        self._service, self._wanted, self._record = service, wanted, record
        self._heads = {"id": f"{self.prefix}-{secrets.token_hex(12)}", "object": self.kind,
                       "created": int(time.time()), "model": service.name}  # fmt: skip
        ends, stops = self._ends()
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
                    wanted.seed, index, sequence, wanted.temperature, wanted.top_p, wanted.top_k,
                    alternatives=bool(wanted.logprobs),
                )  # fmt: skip
                self.job.lines.append(Line(
                    self.job, len(self.job.lines), prompt, wanted.max_tokens, sampling,
                    (*wanted.stop, *stops), service.tokenizer, ends,
                    scored=wanted.echo and wanted.logprobs is not None,
                ))  # fmt: skip

    def _ends(self) -> tuple[frozenset[int], tuple[str, ...]]:
        """The tokens after which a sequence ends, besides eos, and strings before which it does,
        besides those that were asked for."""
        return frozenset(), ()

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
        whole = [Piece(choice, "", [], [], [], None) for choice in range(len(self.job.lines))]
        while self._left:
            for piece in await self.next():
                into = whole[piece.choice]
                into.text += piece.text
                into.made += piece.made
                into.texts += piece.texts
                into.offsets += piece.offsets
                into.reason = piece.reason
        for piece in whole:
            self._echo(piece)
        choices = [self._choice(piece, self._content(piece)) for piece in whole]
        return {**self._heads, "choices": choices, "usage": self._usage()}

    async def events(self, said: list[Piece]) -> AsyncIterator[str]:
        """Server-sent events, beginning with what was said first."""
        begun: set[int] = set()
        try:
            while True:
                for piece in said:
                    first = piece.choice not in begun
                    if first:
                        self._echo(piece)
                    wanted = self._wanted.logprobs is not None and piece.made
                    if piece.text or piece.reason or wanted:
                        begun.add(piece.choice)
                        delta = self._delta(piece, first)
                        yield self._event({"choices": [self._choice(piece, delta)]})
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
        heads = {**self._heads, "object": self.chunk_kind}
        return f"data: {api.dumps({**heads, **content})}\n\n"

    def _echo(self, piece: Piece) -> None:
        """Puts the prompt before a choice's first piece, where that is wanted."""
        if not self._wanted.echo:
            return
        prompt = self._wanted.prompts[piece.choice // self._wanted.n]
        text = prompt if isinstance(prompt, str) else self._service.tokenizer.decode(prompt)
        piece.text = text + piece.text
        line = self.job.lines[piece.choice]
        if line.scored:
            texts = line.prompt_texts
            piece.made[:0], piece.texts[:0] = line.of_prompt, texts
            piece.offsets[:0] = [len("".join(texts[:place])) for place in range(len(texts))]

    def _usage(self) -> dict[str, int]:
        return api.usage(self._record.prompt_tokens, self._record.completion_tokens)

    def _choice(self, piece: Piece, content: dict[str, Any]) -> dict[str, Any]:
        count = self._wanted.logprobs
        logprobs = None
        if count is not None:
            ids = sorted({i for made in piece.made for i, _ in made.alternatives})
            names = dict(zip(ids, self._service.tokenizer.pieces(ids)))
            logprobs = self._logprobs(piece, names, count)
        return {**content, "index": piece.choice, "logprobs": logprobs,
                "finish_reason": piece.reason}  # fmt: skip

    def _content(self, piece: Piece) -> dict[str, Any]:
        """What a choice says."""
        return {"text": piece.text}

    def _delta(self, piece: Piece, first: bool) -> dict[str, Any]:
        """What a piece adds to a choice that is streamed."""
        return self._content(piece)

    def _logprobs(self, piece: Piece, names: dict[int, str], count: int) -> dict[str, Any]:
        return api.logprobs_of(piece.made, piece.texts, piece.offsets, names, count)


class ChatAnswer(Answer):
    """The same in a conversation: what the assistant says next, up to what its template puts after
    an answer."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def _ends(self) -> tuple[frozenset[int], tuple[str, ...]]:
        assert self._service.chat is not None
        chat = self._service.chat
        if chat.end is not None:
            return frozenset([chat.end]), ()
        text = self._service.tokenizer.decode(chat.after)
        return frozenset(), (text,) if text else ()

    def _content(self, piece: Piece) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": piece.text}}

    def _delta(self, piece: Piece, first: bool) -> dict[str, Any]:
        role = {"role": "assistant"} if first else {}
        return {"delta": {**role, "content": piece.text}}

    def _logprobs(self, piece: Piece, names: dict[int, str], count: int) -> dict[str, Any]:
        return api.chat_logprobs_of(piece.made, piece.texts, names, count)


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
