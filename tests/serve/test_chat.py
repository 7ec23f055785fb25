"""Conversations over the socket: the template's tokens, and answers that end where it says."""

from __future__ import annotations

import dataclasses
import itertools
import json
from types import SimpleNamespace

import pytest

from lm.config import ChatTemplate, Instruction
from lm.data.tokenizers.simple import Bytes
from lm.generate.decode import generate
from lm.generate.sampling import SamplingConfig
from lm.objectives.tasks.instruction import Chat, InstructionObjective
from lm.serve.answer import ChatAnswer
from tests.serve.running import POSITIONS, serving, tiny_run

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "system", "content": "abc"}, {"role": "user", "content": "i d"}]


def chat_run(after: str):
    """The tiny model, with a template in the letters that it knows."""
    run = tiny_run()
    template = ChatTemplate(
        before="{role}.", after=after, between=" ",
        roles={"system": "a", "user": "b", "assistant": "c"},
    )  # fmt: skip
    objective = InstructionObjective(Instruction(template=template), run.model.config)
    return dataclasses.replace(run, objective=objective)


@pytest.fixture(scope="module")
def server():
    with serving(run=chat_run("\n"), max_batch=2) as running:
        yield running


def said(run, seed: int, count: int) -> list[int]:
    prompt = run.objective.chat(run.tokenizer, run.config.data).prompt(MESSAGES)
    [[done]] = generate(
        run.model, run.params, [prompt], sampling=SamplingConfig(1.0), max_new_tokens=count,
        seed=seed, vocab_size=run.tokenizer.vocab_size, eos_id=run.tokenizer.eos_id,
    )  # fmt: skip
    return done.tokens


def test_an_answer_ends_with_the_template_s_marker(server):
    run = chat_run("\n")
    [marker] = run.tokenizer.encode("\n")
    ended = 0
    for seed in range(8):
        status, answer = server.ask(PATH, messages=MESSAGES, max_tokens=20, seed=seed)
        assert status == 200, answer
        tokens = said(run, seed, 20)
        if marker in tokens:
            tokens, ended = tokens[: tokens.index(marker) + 1], ended + 1
        [choice] = answer["choices"]
        stops = (marker, run.tokenizer.eos_id)
        shown = tokens[:-1] if tokens[-1] in stops else tokens
        content = run.tokenizer.decode(shown)
        assert choice["message"] == {"role": "assistant", "content": content}
        assert choice["finish_reason"] == ("stop" if tokens[-1] in stops else "length")
        assert answer["object"] == "chat.completion"
        assert answer["usage"]["completion_tokens"] == len(tokens)
    assert ended


def test_a_marker_of_several_tokens_is_not_shown():
    def text(marker: str) -> str:
        run = chat_run(marker)
        tokens = said(run, 0, 30)
        return run.tokenizer.decode(tokens[:-1])

    pairs = map("".join, itertools.product("abcdfghij", repeat=2))
    marker = next(pair for pair in pairs if pair in text(pair))
    with serving(run=chat_run(marker), max_batch=1) as running:
        _, answer = running.ask(PATH, messages=MESSAGES, max_tokens=30, seed=0)
    [choice] = answer["choices"]
    assert choice["message"]["content"] == text(marker).split(marker)[0]
    assert choice["finish_reason"] == "stop"


def test_a_special_token_of_the_marker_ends_an_answer():
    """As in ChatML: nothing after it is waited for, and no answer can spell it."""
    tokenizer, run = Bytes(), tiny_run()
    for after, ends in (
        ("<eos>\n", (frozenset([258]), ())),
        ("\n<bos>\n", (frozenset([257]), ())),
        ("|", (frozenset([ord("|")]), ())),
        ("||", (frozenset(), ("||",))),
        ("", (frozenset(), ())),
    ):
        answer = ChatAnswer.__new__(ChatAnswer)
        template = ChatTemplate(before="{role}:", after=after, between="")
        chat = Chat(template, tokenizer, run.config.data)
        answer._service = SimpleNamespace(chat=chat, tokenizer=tokenizer)
        assert answer._ends() == ends
        spelled = chat.tokens([{"role": "user", "content": after or "x"}])[0]
        assert not {257, 258} & set(spelled[: len(spelled) - len(chat.after)])


def test_a_stream_adds_up(server):
    body = dict(messages=MESSAGES, max_tokens=20, seed=3, n=2, logprobs=True, top_logprobs=1)
    _, whole = server.ask(PATH, **body)
    _, events = server.ask(PATH, **body, stream=True, stream_options={"include_usage": True})
    *pieces, last = map(json.loads, events[:-2])
    texts, tokens = ["", ""], [0, 0]
    for piece in pieces:
        assert piece["object"] == "chat.completion.chunk"
        [choice] = piece["choices"]
        assert ("role" in choice["delta"]) == (not tokens[choice["index"]])
        texts[choice["index"]] += choice["delta"]["content"]
        tokens[choice["index"]] += len(choice["logprobs"]["content"])
    assert texts == [c["message"]["content"] for c in whole["choices"]]
    assert tokens == [len(c["logprobs"]["content"]) for c in whole["choices"]]
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    first = whole["choices"][0]["logprobs"]["content"][0]
    assert len(first["top_logprobs"]) == 1 and first["bytes"] == list(first["token"].encode())


def test_what_cannot_be_answered_is_said(server):
    long = [{"role": "user", "content": "a" * POSITIONS}]
    status, answer = server.ask(PATH, messages=long)
    assert status == 400 and answer["error"]["code"] == "context_length_exceeded"
    status, answer = server.ask(PATH, messages=[{"role": "user", "content": "X"}])
    assert (status, answer["error"]["param"]) == (400, "messages")
    # As many tokens as there is room for, where nobody says how many.
    assert server.ask(PATH, messages=MESSAGES)[0] == 200


def test_a_model_without_a_template_has_no_conversations():
    with serving(max_batch=1) as running:
        status, answer = running.ask(PATH, messages=MESSAGES)
    assert (status, answer["error"]["code"]) == (404, "no_chat_template")
