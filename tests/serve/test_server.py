"""The endpoints, over a socket."""

from __future__ import annotations

import json
import threading

import pytest

from lm.evaluate.scoring import Request, score
from lm.generate.sampling import SamplingConfig
from lm.generate.text import generate_text
from lm.serve.app import MOST_BODY
from lm.serve.load import Query, ask
from lm.serve.slots import Slots
from tests.serve.running import POSITIONS, serving, tiny_run, until


@pytest.fixture(scope="module")
def server():
    with serving(max_batch=2) as running:
        yield running
    assert running.status == 0


def expected(prompt: str, **options):
    run = tiny_run()
    options = {"sampling": SamplingConfig(temperature=0.8), "max_new_tokens": 12, **options}
    [completions] = generate_text(
        run.model, run.params, run.tokenizer, [prompt], data=run.config.data, **options
    )
    return completions


def test_the_answer_is_what_lm_generate_says(server):
    status, answer = server.ask(prompt="abc", max_tokens=12, temperature=0.8, seed=5, n=3)
    assert status == 200
    assert (answer["object"], answer["model"]) == ("text_completion", "tiny")
    wanted = expected("abc", seed=5, num_return_sequences=3)
    assert [c["text"] for c in answer["choices"]] == [c.text for c in wanted]
    reasons = {"eos": "stop", "stop": "stop", "length": "length"}
    assert [c["finish_reason"] for c in answer["choices"]] == [
        reasons[c.finish_reason] for c in wanted
    ]
    made = sum(len(c.tokens) for c in wanted)
    assert answer["usage"] == {
        "prompt_tokens": 3, "completion_tokens": made, "total_tokens": 3 + made
    }  # fmt: skip
    ids = tiny_run().tokenizer.encode("abc")
    assert (
        server.ask(prompt=ids, max_tokens=12, temperature=0.8, seed=5, n=3)[1]["choices"]
        == (answer["choices"])
    )


def test_the_likeliest_tokens_alone(server):
    sampling = SamplingConfig(temperature=1.5, top_k=3)
    wanted = expected("abc", seed=5, num_return_sequences=2, sampling=sampling)
    _, answer = server.ask(prompt="abc", max_tokens=12, temperature=1.5, top_k=3, seed=5, n=2)
    assert [c["text"] for c in answer["choices"]] == [c.text for c in wanted]
    _, other = server.ask(prompt="abc", max_tokens=12, temperature=1.5, seed=5, n=2)
    assert other["choices"] != answer["choices"]


def test_stop_strings_and_echo(server):
    said = expected("ab", sampling=SamplingConfig(temperature=0.0))[0].text
    stop = said[2:4]
    text = server.text(prompt="ab", max_tokens=12, temperature=0, stop=["zz", stop], echo=True)
    assert text == "ab" + said[: said.find(stop)]


def test_a_stream_adds_up_to_the_whole(server):
    body = dict(prompt=["abc", "fg"], max_tokens=12, temperature=0.8, seed=5, n=2, echo=True)
    _, whole = server.ask(**body)
    status, events = server.ask(**body, stream=True, stream_options={"include_usage": True})
    assert status == 200 and events[-2:] == ["[DONE]", ""]
    *pieces, last = map(json.loads, events[:-2])
    texts, reasons = ["", "", "", ""], [None, None, None, None]
    for piece in pieces:
        [choice] = piece["choices"]
        assert reasons[choice["index"]] is None
        texts[choice["index"]] += choice["text"]
        reasons[choice["index"]] = choice["finish_reason"]
    assert texts == [c["text"] for c in whole["choices"]]
    assert reasons == [c["finish_reason"] for c in whole["choices"]]
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert len(pieces) > 4  # not all at once


def test_logprobs(server):
    _, answer = server.ask(prompt="abc", max_tokens=6, temperature=0, logprobs=2)
    [choice] = answer["choices"]
    [wanted] = expected("abc", sampling=SamplingConfig(temperature=0.0), max_new_tokens=6)
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert logprobs["token_logprobs"] == pytest.approx(wanted.logprobs, abs=1e-4)
    for token, logprob, offset, top in zip(*(
        logprobs[k] for k in ("tokens", "token_logprobs", "text_offset", "top_logprobs")
    )):  # fmt: skip
        assert choice["text"][offset:].startswith(token)
        assert len(top) == 2 and max(top.values()) == pytest.approx(logprob, abs=1e-5)
    _, answer = server.ask(prompt="abc", max_tokens=6, temperature=0, logprobs=0)
    assert answer["choices"][0]["logprobs"]["top_logprobs"] is None


def test_an_echoed_prompt_has_its_own_log_probabilities(server):
    """As harnesses score choices: those of a context's continuation are the scorer's own."""
    run, prompts = tiny_run(), ["abcde fg", "j", "abcde fgh.."]
    body = dict(prompt=prompts, temperature=0, seed=1, echo=True, logprobs=2)
    _, answer = server.ask(**body, max_tokens=1)
    for prompt, choice in zip(prompts, answer["choices"], strict=True):
        found = choice["logprobs"]
        tokens = run.tokenizer.encode(prompt)
        assert "".join(found["tokens"]) == choice["text"] and choice["text"].startswith(prompt)
        assert len(found["tokens"]) == len(tokens) + 1
        assert (found["token_logprobs"][0], found["top_logprobs"][0]) == (None, None)
        # A character a token.
        assert found["text_offset"] == list(range(len(tokens) + 1))
        if len(tokens) > 1:
            request = Request(tokens[:1], tokens[1:], "x")
            [expected] = score(run.model, run.params, [request])
            own = found["token_logprobs"][1:-1]
            assert own == pytest.approx(expected.token_logprobs, abs=1e-4)
            likeliest = [max(top.values()) for top in found["top_logprobs"][1:-1]]
            assert all(a <= b + 1e-6 for a, b in zip(own, likeliest))
            assert expected.greedy == all(a >= b - 1e-6 for a, b in zip(own, likeliest))
    assert answer["usage"]["completion_tokens"] == len(prompts)
    # The prompt alone, and the same in a stream.
    _, alone = server.ask(**body, max_tokens=0)
    _, events = server.ask(**body, max_tokens=0, stream=True)
    assert alone["usage"]["completion_tokens"] == 0
    pieces = [json.loads(event)["choices"][0] for event in events[:-2]]
    for choice, before in zip(alone["choices"], answer["choices"], strict=True):
        assert choice["text"] == prompts[choice["index"]] and choice["finish_reason"] == "length"
        same = before["logprobs"]["token_logprobs"][:-1]
        assert choice["logprobs"]["token_logprobs"] == pytest.approx(same, abs=1e-5)
        assert choice in pieces


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        ({"prompt": "a", "max_tokens": "x"}, 400, "max_tokens", "not a string"),
        ({"prompt": "X"}, 400, "prompt", "X"),
        ({"prompt": "a" * POSITIONS}, 400, "prompt", "64 tokens, more than the 63"),
        ({"prompt": ["a", "a" * 60]}, 400, "max_tokens", "prompt 1 of 60 tokens, and max_tokens"),
        ({"prompt": [13]}, 400, "prompt", "token ids from 13 to 13, but the vocabulary is 0 to 12"),
        ({"prompt": "\ud800"}, 400, "prompt", ""),
        ({"prompt": "a", "model": "gpt"}, 404, "model", "this server has 'tiny'"),
    ],
)
def test_what_cannot_be_answered_is_said(server, body, status, param, message):
    got, answer = server.ask(**body)
    assert (got, answer["error"]["param"]) == (status, param)
    assert message in answer["error"]["message"]
    assert server.worker.pending == 0


def test_bodies_that_are_none(server):
    post = ("/v1/completions", "POST")
    assert server.get(*post, b"{nonsense")[0] == 400
    large = {"Content-Length": str(MOST_BODY + 1)}
    status, _, answer = server.get(*post, b"", large)
    assert status == 413 and "larger than" in json.loads(answer)["error"]["message"]
    assert server.get("/v1/completions")[0] == 405
    status, _, answer = server.get("/v1/images", "POST", b"{}")
    assert status == 404 and "error" in json.loads(answer)


def test_models_health_and_metrics(server):
    server.ask(prompt="abc", max_tokens=4)
    assert json.loads(server.get("/v1/models")[2])["data"][0]["id"] == "tiny"
    assert server.get("/v1/models/tiny")[0] == 200 and server.get("/v1/models/x")[0] == 404
    assert server.get("/health")[::2] == (200, b'{"status":"ready"}\n')
    _, headers, body = server.get("/metrics")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    values = {}
    for line in body.decode().splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            values[name] = float(value)
    assert values['lm_requests_total{status="200"}'] >= 1
    assert values['lm_tokens_total{kind="completion"}'] >= 1
    answered = values['lm_requests_total{status="200"}']
    assert values['lm_request_seconds_bucket{le="+Inf"}'] == answered
    assert (values["lm_queue_length"], values["lm_running"]) == (0, 0)


def test_health_says_that_the_model_is_compiling(monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(Slots, "warm_up", lambda self, stopped: go_on.wait(60))
    with serving(ready=False) as running:
        assert running.get("/health")[::2] == (503, b'{"status":"compiling"}\n')
        go_on.set()
        until(lambda: running.get("/health")[0] == 200)


def test_a_model_that_cannot_be_compiled_ends_the_server(monkeypatch, capsys):
    def fail(self, stopped):
        raise RuntimeError("no memory")

    monkeypatch.setattr(Slots, "warm_up", fail)
    with serving() as running:
        pass
    assert running.status == 1 and "no memory" in capsys.readouterr().err


def test_a_batch_that_fails_is_answered_and_the_next_is_not(server, monkeypatch, capsys):
    def fail(self):
        raise RuntimeError("the device is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(Slots, "advance", fail)
        status, answer = server.ask(prompt=["abc", "d"], max_tokens=5)
        assert (status, answer["error"]["code"]) == (500, "batch_failed")
        status, events = server.ask(prompt="abc", max_tokens=5, stream=True)
        # The first token had been sent.
        assert status == 200 and "batch_failed" in events[-2] and "[DONE]" not in events
    err = capsys.readouterr().err
    assert "the device is on fire" in err and "Traceback" in err
    assert server.ask(prompt="abc", max_tokens=5)[0] == 200


@pytest.fixture
def gate(monkeypatch):
    """After its first token no row says anything until this is set."""
    advance, gate = Slots.advance, threading.Event()

    def gated(self):
        return advance(self) if gate.wait(0.01) else []

    monkeypatch.setattr(Slots, "advance", gated)
    yield gate
    gate.set()


def hold(running, count: int) -> list[threading.Thread]:
    """So many requests that wait, or are on the device, until the gate opens."""
    before = running.worker.pending
    body = {"prompt": "a", "max_tokens": 60, "temperature": 0}
    threads = [threading.Thread(target=running.ask, kwargs=body) for _ in range(count)]
    for thread in threads:
        thread.start()
    until(lambda: running.worker.pending == before + count)
    return threads


def test_a_full_queue_is_refused(gate):
    with serving(max_batch=1, max_queue=2) as running:
        [holding] = hold(running, 1)
        until(lambda: running.worker.running == 1)
        waiting = hold(running, 2)
        status, headers, body = running.get("/v1/completions", "POST", b'{"prompt": "a"}')
        assert (status, json.loads(body)["error"]["code"]) == (429, "queue_full")
        assert int(headers["retry-after"]) >= 1
        status, answer = running.ask(prompt="a", n=3)
        assert status == 400 and "from 1 to 2, not 3" in answer["error"]["message"]
        gate.set()
        for thread in (holding, *waiting):
            thread.join()
        metrics = running.get("/metrics")[2].decode()
        assert 'lm_requests_total{status="200"} 3' in metrics
        assert 'lm_requests_total{status="429"} 1' in metrics


def test_who_waits_too_long_is_sent_away(gate):
    with serving(max_batch=1, queue_timeout=0) as running:
        [holding] = hold(running, 1)
        until(lambda: running.worker.running == 1)
        status, answer = running.ask(prompt="a")
        assert (status, answer["error"]["code"]) == (503, "queue_timeout")
        gate.set()
        holding.join()
        assert running.ask(prompt="a")[0] == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_frees_its_row(gate, stream):
    with serving(max_batch=1) as running:
        body = {"prompt": "a", "max_tokens": 60, "temperature": 0, "stream": stream}
        if stream:
            reply = ask(running.url, Query("leave", body))
            assert reply.reason == "left" and not reply.complete
        else:
            assert ask(running.url, Query("whole", body), timeout=0.3).reason == "TimeoutError"
        running.idle()
        _, answer = running.ask(prompt="a", max_tokens=1)
        assert answer["usage"]["completion_tokens"] == 1
        until(lambda: 'status="499"} 1' in running.get("/metrics")[2].decode())


def test_stopping_finishes_what_runs_and_refuses_the_rest(gate):
    with serving(max_batch=2) as running:
        holding = hold(running, 3)
        running.server.stop()
        until(lambda: running.server.service.status == "draining")
        assert running.get("/health")[0] == 503
        status, answer = running.ask(prompt="a")
        assert (status, answer["error"]["code"]) == (503, "draining")
        gate.set()
        for thread in holding:
            thread.join()
    assert running.status == 0
    assert 'lm_requests_total{status="200"} 3' in running.worker.metrics.text()


def test_the_grace_time_ends(gate):
    with serving(max_batch=1, grace=0.1) as running:
        [holding] = hold(running, 1)
        running.server.stop()
        holding.join()
    assert running.status == 0
    assert 'lm_requests_total{status="503"} 1' in running.worker.metrics.text()
