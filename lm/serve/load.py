"""Many requests at once to a running `lm serve`, and how they were answered.

python -m lm.serve.load --url=http://127.0.0.1:8000 --requests=200
python -m lm.serve.load --url=http://127.0.0.1:8000 --requests=200 --faults
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

Kind = Literal["whole", "stream", "leave", "long", "malformed"]
# Of twenty requests with --faults.
_FAULTS: tuple[Kind, ...] = ("leave", "leave", "long", "malformed")


@dataclass(frozen=True)
class Query:
    """One request: read whole, streamed, left after the first piece, or meant to be refused."""

    kind: Kind
    body: dict[str, Any]


@dataclass
class Reply:
    """What became of a query; `status` 0 where the connection failed, and `reason` says why."""

    query: Query
    status: int = 0
    reason: str = ""
    seconds: float = 0.0
    tokens: int = 0
    texts: dict[int, str] = field(default_factory=dict)
    complete: bool = False
    """The answer ended as it should: [DONE], or a whole body."""


def ask(url: str, query: Query, timeout: float = 300.0) -> Reply:
    """Sends one query and reads the answer, or leaves. No error is raised."""
    reply, started = Reply(query), time.monotonic()
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=timeout)
    try:
        body = "{malformed" if query.kind == "malformed" else json.dumps(query.body)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", body.encode(), headers)
        response = connection.getresponse()
        reply.status = response.status
        if response.status == 200 and query.body.get("stream"):
            _read_events(response, reply)
        else:
            _read_whole(response, reply)
    except (OSError, http.client.HTTPException) as error:
        reply.reason = type(error).__name__
    finally:
        connection.close()
    reply.seconds = time.monotonic() - started
    return reply


def _read_whole(response: http.client.HTTPResponse, reply: Reply) -> None:
    answer = json.loads(response.read())
    reply.complete = True
    if "error" in answer:
        reply.reason = answer["error"]["code"] or answer["error"]["message"]
        return
    reply.texts = {choice["index"]: choice["text"] for choice in answer["choices"]}
    reply.tokens = answer["usage"]["completion_tokens"]


def _read_events(response: http.client.HTTPResponse, reply: Reply) -> None:
    for line in response:
        if not line.startswith(b"data: "):
            continue
        data = line.removeprefix(b"data: ").strip()
        if data == b"[DONE]":
            reply.complete = True
            continue
        event = json.loads(data)
        if "error" in event:
            reply.reason = event["error"]["code"] or event["error"]["message"]
            continue
        for choice in event["choices"]:
            index = choice["index"]
            reply.texts[index] = reply.texts.get(index, "") + choice["text"]
        if "usage" in event:
            reply.tokens = event["usage"]["completion_tokens"]
        if reply.query.kind == "leave":
            reply.reason = "left"
            return


def mixture(prompt: str, requests: int, max_tokens: int, seed: int, faults: bool) -> list[Query]:
    """Queries of different lengths and settings, half of them streamed; with `faults`, a fifth are
    too long, malformed, or left after the first piece."""
    rng = random.Random(seed)
    queries = []
    for number in range(requests):
        kind: Kind = "stream" if number % 2 else "whole"
        if faults and number % 20 < len(_FAULTS):
            kind = _FAULTS[number % 20]
        body: dict[str, Any] = {
            "prompt": prompt[: rng.randint(1, len(prompt))],
            "max_tokens": max_tokens if kind == "leave" else rng.randint(1, max_tokens),
            "temperature": rng.choice((0.0, 0.7, 1.0)),
            "top_p": rng.choice((0.9, 1.0)),
            "seed": number,
        }
        if kind in ("stream", "leave"):
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if kind == "long":
            body["prompt"] = prompt * (100_000 // len(prompt))
        queries.append(Query(kind, body))
    return queries


def ask_all(url: str, queries: Sequence[Query], concurrency: int) -> tuple[list[Reply], float]:
    """The replies, in the order of the queries, and the seconds it took."""
    start = threading.Barrier(min(concurrency, len(queries)))

    def one(number: int) -> Reply:
        if number < start.parties:
            start.wait()
        return ask(url, queries[number])

    started = time.monotonic()
    with ThreadPoolExecutor(start.parties) as pool:
        replies = list(pool.map(one, range(len(queries))))
    return replies, time.monotonic() - started


def summary(replies: Sequence[Reply], seconds: float) -> str:
    """Counts, latency of what was answered in full, tokens a second."""
    answered = [r for r in replies if r.status == 200 and r.complete and not r.reason]
    others = Counter(f"{r.status or 'no answer'} {r.reason}".strip()
                     for r in replies if r not in answered)  # fmt: skip
    lines = [f"{len(replies)} requests in {seconds:.2f} s: {len(answered)} answered"]
    lines += [f"  {count:5d}  {what}" for what, count in others.most_common()]
    if answered:
        latencies = sorted(r.seconds for r in answered)
        p50, p95 = (latencies[int(q * (len(latencies) - 1))] for q in (0.5, 0.95))
        tokens = sum(r.tokens for r in answered)
        lines.append(f"latency p50 {p50:.3f} s, p95 {p95:.3f} s")
        lines.append(f"{tokens} tokens, {tokens / seconds:.1f} tokens/s")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 where a connection failed or an answer was cut short."""
    parser = argparse.ArgumentParser(prog="python -m lm.serve.load", description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the server")
    parser.add_argument("--requests", type=int, default=200, help="how many")
    parser.add_argument("--concurrency", type=int, help="how many at once (default: all)")
    parser.add_argument("--prompt", default="Once upon a time there was a model that ",
                        help="the requests' prompts are beginnings of it")  # fmt: skip
    parser.add_argument("--max_tokens", type=int, default=32, help="most tokens of an answer")
    parser.add_argument("--seed", type=int, default=0, help="of the mixture")
    parser.add_argument("--faults", action="store_true", help="some leave, some are malformed")
    flags = parser.parse_args(arguments)
    if min(flags.requests, flags.max_tokens, len(flags.prompt), flags.concurrency or 1) < 1:
        parser.error("--requests, --concurrency, --max_tokens must be at least 1, --prompt a text")
    queries = mixture(flags.prompt, flags.requests, flags.max_tokens, flags.seed, flags.faults)
    replies, seconds = ask_all(flags.url, queries, flags.concurrency or flags.requests)
    print(summary(replies, seconds))
    bad = [r for r in replies if not r.status or not (r.complete or r.query.kind == "leave")]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
