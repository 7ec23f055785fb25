"""The HTTP side: routes, limits on what is read, answers whole or as server-sent events, clients
that go away, one line of log a request."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lm.errors import UserError
from lm.generate.text import encode_prompt
from lm.objectives.tasks.instruction import Chat
from lm.serve import api
from lm.serve.answer import CLIENT_GONE, Answer, ChatAnswer, Events, Record, Service
from lm.serve.api import ApiError, CompletionRequest

MOST_BODY = 4 << 20
_RECORD = "lm.record"


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return (api.dumps(content) + "\n").encode()


def build_app(service: Service) -> Starlette:
    """The ASGI application."""

    def route(path: str, handle: Callable[[Service, Request], Any], method: str) -> Route:
        async def endpoint(request: Request) -> Response:
            return await handle(service, request)

        return Route(path, endpoint, methods=[method])

    handlers: Any = {ApiError: _api_error, HTTPException: _http_error, Exception: _bug}
    app = Starlette(
        routes=[
            route("/v1/completions", _completions, "POST"),
            route("/v1/chat/completions", _chat, "POST"),
            route("/v1/models", _models, "GET"),
            route("/v1/models/{name:path}", _model, "GET"),
            route("/health", _health, "GET"),
            route("/metrics", _metrics, "GET"),
        ],
        exception_handlers=handlers,
    )
    app.add_middleware(_Observe, service=service)
    return app


class _Observe:
    """Times a request, logs a line about it, and counts completions."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.metrics = app, service.worker.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.monotonic()
        record = scope[_RECORD] = Record()

        async def observe(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, observe)
        except ClientDisconnect:
            record.status = CLIENT_GONE
        finally:
            seconds = time.monotonic() - started
            # As it was sent: without line ends or other control characters.
            path = scope.get("raw_path", b"").decode("ascii", "replace")
            made, read = record.completion_tokens, record.prompt_tokens
            tokens = f" {read}+{made} tokens" if read else ""
            log(f"{scope['method']} {path} {record.status} {1000 * seconds:.0f} ms{tokens}")
            if path.startswith(("/v1/completions", "/v1/chat/completions")):
                self.metrics.request(record.status, seconds)
                self.metrics.tokens(read, made)


async def _api_error(request: Request, error: ApiError) -> Response:
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status in (413, 503):
        headers["Connection"] = "close"
    return _Json(error.body, error.status, headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    path = request.url.path
    message = f"{request.method} {path}: {error.detail}"
    return _Json(ApiError(error.status_code, message).body, error.status_code, error.headers)


async def _bug(request: Request, error: Exception) -> Response:
    """The traceback goes to the log: Starlette raises the error again."""
    return _Json(ApiError(500, "the server failed; its log says why").body, 500)


# --------------------------------------------------------------------------------- endpoints


async def _health(service: Service, request: Request) -> Response:
    return _Json({"status": service.status}, 200 if service.status == "ready" else 503)


async def _metrics(service: Service, request: Request) -> Response:
    return PlainTextResponse(
        service.worker.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


def _described(service: Service) -> dict[str, Any]:
    return {"id": service.name, "object": "model", "created": service.created, "owned_by": "lm"}


async def _models(service: Service, request: Request) -> Response:
    return _Json({"object": "list", "data": [_described(service)]})


async def _model(service: Service, request: Request) -> Response:
    name = request.path_params["name"]
    if name != service.name:
        raise ApiError(404, f"no model {name!r} here; this server has {service.name!r}",
                       param="model", code="model_not_found")  # fmt: skip
    return _Json(_described(service))


async def _completions(service: Service, request: Request) -> Response:
    check_open(service)
    body = api.parse_json(await _read(request))
    wanted = api.parse_request(body, service.name, service.limits)
    loop = asyncio.get_running_loop()
    prompts = await loop.run_in_executor(service.encoder, _encode, service, wanted)
    return await _answered(
        service, request, Answer(service, wanted, prompts, request.scope[_RECORD]), wanted.stream
    )


async def _chat(service: Service, request: Request) -> Response:
    check_open(service)
    if service.chat is None:
        raise ApiError(404, "this model has no template for conversations, it was trained on none "
                       "(objective 'instruction'); ask /v1/completions",
                       code="no_chat_template")  # fmt: skip
    body = api.parse_json(await _read(request))
    messages, wanted = api.parse_chat(body, service.name, service.limits)
    loop = asyncio.get_running_loop()
    tokens, wanted = await loop.run_in_executor(
        service.encoder, _encode_chat, service, service.chat, messages, wanted
    )
    answer = ChatAnswer(service, wanted, [tokens], request.scope[_RECORD])
    return await _answered(service, request, answer, wanted.stream)


async def _answered(service: Service, request: Request, answer: Answer, stream: bool) -> Response:
    """What comes of an answer, whole or as a stream; its client may go at any time."""
    check_open(service)
    service.worker.submit(answer.job)
    gone = asyncio.create_task(_until_gone(request))
    try:
        if not stream:
            return _Json(await _unless(gone, answer.whole()))
        # Errors before the first token still have a status of their own.
        first = await _unless(gone, answer.next())
        return Events(answer, first)
    except BaseException:
        service.worker.cancel(answer.job)
        raise
    finally:
        gone.cancel()


def check_open(service: Service) -> None:
    """Raises ApiError where no request is taken any more."""
    if service.status == "draining":
        raise ApiError(503, "the server is shutting down", code="draining", retry_after=5)


async def _read(request: Request) -> bytes:
    """The body. Raises ApiError where it is too large, before all of it has come."""
    error = ApiError(413, f"the body is larger than {MOST_BODY} bytes", code="body_too_large")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MOST_BODY:
        raise error
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BODY:
            raise error
        parts.append(part)
    return b"".join(parts)


def _encode(service: Service, wanted: CompletionRequest) -> list[list[int]]:
    """Every prompt's tokens. Raises ApiError, which says what is wrong with which."""
    encoded = []
    for index, prompt in enumerate(wanted.prompts):
        try:
            if isinstance(prompt, str):
                tokens = encode_prompt(service.tokenizer, prompt, service.data)
            else:
                tokens = prompt
        except UserError as error:
            raise ApiError(400, str(error), param="prompt") from None
        api.check_length(index, tokens, wanted.max_tokens, service.limits)
        if not 0 <= min(tokens) <= max(tokens) < service.vocab_size:
            raise ApiError(400, f"prompt {index} has token ids from {min(tokens)} to "
                           f"{max(tokens)}, but the vocabulary is 0 to {service.vocab_size - 1}",
                           param="prompt")  # fmt: skip
        encoded.append(tokens)
    return encoded


def _encode_chat(
    service: Service, chat: Chat, messages: list[dict[str, str]], wanted: CompletionRequest
) -> tuple[list[int], CompletionRequest]:
    """The conversation's tokens, and the request with as many new ones as there is room for, where
    it does not say. Raises ApiError."""
    try:
        tokens = chat.prompt(messages)
    except UserError as error:
        raise ApiError(400, str(error), param="messages") from None
    limits = service.limits
    room = limits.positions - len(tokens)
    count = wanted.max_tokens or max(1, min(limits.max_new_tokens, room))
    api.check_length(0, tokens, count, limits)
    return tokens, dataclasses.replace(wanted, max_tokens=count)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _unless(gone: asyncio.Task[None], work: Any) -> Any:
    """The result of `work`. Raises ClientDisconnect as soon as the client has gone."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
