"""Requests checked field by field."""

from __future__ import annotations

import json

import pytest

from lm.serve.api import Limits, check_length, parse_chat, parse_json, parse_request
from lm.serve.fields import ApiError

LIMITS = Limits(max_prompt_tokens=20, max_new_tokens=30, positions=40, max_sequences=8)


def parse(**body):
    return parse_request(body, "m", LIMITS)


def refused(call, *arguments, **named) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call(*arguments, **named)
    return caught.value


def test_defaults_are_openais():
    request = parse(prompt="a")
    assert request.prompts == ("a",)
    assert (request.max_tokens, request.temperature, request.top_p, request.n) == (16, 1.0, 1.0, 1)
    assert (request.stop, request.stream, request.echo, request.logprobs) == (
        (),
        False,
        False,
        None,
    )
    assert parse(prompt="a").seed != parse(prompt="a").seed


def test_null_and_what_asks_for_nothing_are_left_out():
    neutral = {"best_of": 1, "presence_penalty": 0.0, "logit_bias": {}, "suffix": None}
    assert parse(prompt="a", seed=1, temperature=None, **neutral) == parse(prompt="a", seed=1)


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ([1, 2],)),
        ([[1], [2, 3]], ([1], [2, 3])),
    ],
)
def test_prompts_of_every_kind(given, prompts):
    assert parse(prompt=given).prompts == prompts


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "prompt", "prompt is required"),
        ({"prompt": 3}, "prompt", "not a whole number"),
        ({"prompt": []}, "prompt", "empty array"),
        ({"prompt": ["a", 1]}, "prompt", "all of one kind"),
        ({"prompt": [True]}, "prompt", "all of one kind"),
        ({"prompt": [1.5]}, "prompt", "all of one kind"),
        ({"max_tokens": "9"}, "max_tokens", "must be a whole number, not a string"),
        ({"max_tokens": True}, "max_tokens", "not a boolean"),
        ({"max_tokens": 31}, "max_tokens", "from 1 to 30, not 31"),
        ({"max_tokens": 0}, "max_tokens", "from 1 to 30, not 0"),
        ({"temperature": "1"}, "temperature", "must be a number, not a string"),
        ({"temperature": -1}, "temperature", "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature", "temperature must be 0"),
        ({"temperature": 10**400}, "temperature", "too large"),
        ({"top_p": 0}, "top_p", "top_p must be above 0"),
        ({"top_k": -2}, "top_k", "top_k must be from -1 to"),
        ({"top_k": 0.5}, "top_k", "must be a whole number"),
        ({"n": 9}, "n", "from 1 to 8, not 9"),
        ({"n": 4, "prompt": ["a", "b", "c"]}, "n", "12 sequences, more than the 8"),
        ({"stop": [1]}, "stop", "a string or an array of strings"),
        ({"stop": {}}, "stop", "a string or an array of strings"),
        ({"stop": ""}, "stop", "cannot be empty"),
        ({"stop": ["x"] * 17}, "stop", "17 strings, at most 16"),
        ({"seed": -1}, "seed", "from 0 to 4294967295"),
        ({"stream": 1}, "stream", "must be true or false"),
        ({"stream_options": {}, "logprobs": 6}, "logprobs", "from 0 to 5"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "for stream=true"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options", "stream_options.x"),
        ({"echo": "yes"}, "echo", "must be true or false"),
        ({"max_tokens": 0}, "max_tokens", "must be from 1 to"),
        ({"max_tokens": -1, "echo": True}, "max_tokens", "must be from 0 to"),
        ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
        ({"presence_penalty": 1}, "presence_penalty", "is not supported"),
        ({"best_of": True}, "best_of", "is not supported"),
        ({"presence_penalty": False}, "presence_penalty", "is not supported"),
        ({"messages": []}, "messages", "unknown parameter"),
        ({"user": 1}, "user", "must be a string"),
    ],
)
def test_what_is_wrong_is_named(body, param, message):
    error = refused(parse, **{"prompt": "a", **body} if body else {})
    assert error.status == 400
    assert error.error["param"] == param and message in error.error["message"]
    assert set(error.body["error"]) == {"message", "type", "param", "code"}


def test_all_tokens_are_said_in_three_ways():
    assert [parse(prompt="a", top_k=k).top_k for k in (-1, 0, 3)] == [0, 0, 3]
    assert parse(prompt="a").top_k == 0


ASKED = [{"role": "user", "content": "a"}]


def chat(**body):
    return parse_chat({"messages": ASKED, **body}, "m", LIMITS)


def test_a_conversation():
    parts = [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]
    given = [{"role": "system", "content": "a"}, {"role": "user", "content": parts}]
    messages, request = chat(messages=given, max_completion_tokens=7, store=False, tools=[])
    assert messages == [given[0], {"role": "user", "content": "bc"}]
    assert (request.max_tokens, request.logprobs, request.prompts) == (7, None, ())
    assert chat()[1].max_tokens == 0
    assert chat(logprobs=True)[1].logprobs == 0
    assert chat(logprobs=True, top_logprobs=2)[1].logprobs == 2


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"messages": None}, "messages", "at least one message"),
        ({"messages": []}, "messages", "at least one message"),
        ({"messages": ["a"]}, "messages[0]", "an object with role and content"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role", "system, user"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages[0].content", "text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "messages[0].content", "text"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "b"}]}, "messages", "own"),
        ({"prompt": "a"}, "prompt", "unknown parameter"),
        ({"tools": [{}]}, "tools", "is not supported"),
        ({"logprobs": 1}, "logprobs", "true or false"),
        ({"top_logprobs": 1}, "top_logprobs", "for logprobs=true"),
        ({"max_tokens": 3, "max_completion_tokens": 3}, "max_tokens", "give one"),
        ({"max_tokens": 31}, "max_tokens", "from 1 to 30"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_conversation_is_named(body, param, message):
    error = refused(chat, **body)
    assert error.status == 400
    assert error.error["param"] == param and message in error.error["message"]


def test_another_model_is_not_found():
    assert parse(prompt="a", model="m").n == 1
    error = refused(parse, prompt="a", model="gpt")
    assert error.status == 404 and error.error["code"] == "model_not_found"


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[1]", b"[" * 100_000, b"3" * 5000, b"", b"null"])
def test_what_is_no_json_object_is_refused(body):
    assert refused(parse_json, body).status == 400
    assert parse_json(json.dumps({"a": 1}).encode()) == {"a": 1}


def test_lengths_name_both_numbers():
    check_length(0, [1] * 20, 20, LIMITS)
    assert "21 tokens, more than the 20" in str(refused(check_length, 0, [1] * 21, 1, LIMITS))
    error = refused(check_length, 1, [1] * 20, 21, LIMITS)
    assert "prompt 1 of 20 tokens, and max_tokens=21 more exceed the 40" in str(error)
    assert "at least one token" in str(refused(check_length, 0, [], 1, LIMITS))
