"""Predictors: many at once and one by one say the same, and what the model itself says."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import ChatTemplate, Instruction, Learned, PrefixLM
from lm.data.examples_read import Example
from lm.data.rows import stack
from lm.errors import ConfigError, UserError
from lm.evaluate.scoring import Request, score
from lm.generate.beam_config import BeamConfig
from lm.generate.contrastive import ContrastiveConfig
from lm.generate.prompts import reads_both_ways, reads_sources
from lm.generate.sampling import SamplingConfig
from lm.generate.text import TextCompletion, generate_text
from lm.model import Mask
from lm.objectives.tasks.instruction import InstructionObjective
from lm.predict.base import Predictor
from lm.predict.predictor import load, predictor
from lm.predict.reading import ReplyReader
from lm.predict.roles import forms_of
from lm.predict.texts import TextPredictor
from tests.predict.runs import KINDS, LENGTH, tiny_config, tiny_run

EOS = 258
TEXTS = ["fine film", "no", "a", "so very long that it will never fit", "two men"]
QUESTIONS = [
    {"question": "who?", "context": "It was Ada who wrote all of it."},
    {"question": "what", "context": "a"},
    {"question": "how?", "context": "so it is"},
]
GIVEN: dict[str, list[Any]] = {
    "classification": TEXTS,
    "tags": ["Ada is", "a B c", ["x"]],
    "answers": QUESTIONS,
    "joined": TEXTS[:3],
    "prefix": ["fine", "no", "a"],
    "reply": ["hi", "so long a prompt", "no"],
    "continuation": ["a text to be continued", "one to go on from", "what comes after this?"],
}


# The same in all tests, which then compile a program once.
OPTIONS: dict[str, dict[str, Any]] = {
    "joined": {"max_new_tokens": 6},
    "prefix": {"max_new_tokens": 6, "beam": BeamConfig(num_beams=1)},
    "reply": {"max_new_tokens": 6},
    "continuation": {"max_new_tokens": 6},
}


def examples(kind: str) -> list[Example]:
    [role, *_] = predictor(tiny_run(kind)).inputs
    return [
        Example(value if isinstance(value, dict) else {role: value}, f"data:{number}")
        for number, value in enumerate(GIVEN[kind])
    ]


def same(one: Any, other: Any) -> bool:
    """Equal but for rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == pytest.approx(other, abs=1e-4) if isinstance(one, float) else one == other


@pytest.mark.parametrize("kind", GIVEN)
def test_batched_answers_are_single_answers_in_order_and_json(kind: str) -> None:
    given, short = examples(kind), OPTIONS.get(kind, {})
    one = predictor(tiny_run(kind), batch_size=1, **short)
    many = predictor(tiny_run(kind), batch_size=4, **short)
    assert isinstance(one, Predictor)
    alone = [answer for example in given for answer in one.answers([example])]
    together = list(many.answers(iter(given)))
    assert len(together) == len(given)
    assert len({json.dumps(answer) for answer in alone}) > 1
    for found, expected in zip(together, alone, strict=True):
        assert same(found, expected), (found, expected)


def test_labels_are_those_of_the_objective_and_what_is_cut_is_said() -> None:
    run: Any = tiny_run("classification")
    answers = predictor(run).predict(TEXTS)
    maker = run.objective.example_maker(run.tokenizer, run.config.data)
    rows = [maker(Example({"text": text}, "x"), labelled=False).rows[0] for text in TEXTS]
    p = np.asarray(jax.jit(run.objective.predict)(run.params, stack(rows))["probabilities"])
    for answer, expected in zip(answers, p, strict=True):
        np.testing.assert_allclose(list(answer["probabilities"].values()), expected, rtol=1e-5)
        assert answer["label"] == ("bad", "good")[int(np.argmax(expected))]
    # 22 of a row's 24 places are for text.
    assert [answer.get("left_out") for answer in answers] == [None, None, None, 35 - 22, None]


def test_a_decoder_sees_a_source_both_ways_as_it_learned_it() -> None:
    run: Any = tiny_run("prefix")
    greedy = predictor(run, batch_size=1, **OPTIONS["prefix"])
    [found] = greedy.answers([Example({"text": "a bc"}, "x")])
    prefix = [*b"a bc", EOS]
    place = jnp.arange(LENGTH)

    @jax.jit
    def logits(tokens: Any) -> Any:
        # As the objective's loss has it: the prefix sees itself, what follows looks back.
        allowed = (place[:, None] >= place) | (place < len(prefix))
        mask = Mask(allowed=allowed[None, None])
        return run.model.apply({"params": run.params}, tokens[None], mask=mask)[0][0]

    ids = list(prefix)
    while len(ids) < len(prefix) + 6 and (ids == prefix or ids[-1] != EOS):
        row = logits(jnp.asarray(ids + [0] * (LENGTH - len(ids))))[len(ids) - 1]
        ids.append(int(jnp.argmax(row[: run.tokenizer.vocab_size])))
    said = [i for i in ids[len(prefix) :] if i != EOS]
    assert found["text"] == run.tokenizer.decode(said)
    reader = greedy._reader  # type: ignore[attr-defined]
    reader.both_ways = False
    [other] = greedy.answers([Example({"text": "a bc"}, "x")])
    assert other["score"] != pytest.approx(found["score"], abs=1e-3)


def test_lm_generate_and_lm_score_read_as_lm_predict_does() -> None:
    run: Any = tiny_run("prefix")
    assert reads_both_ways(run.config) and reads_sources(run.config)
    greedy = predictor(run, batch_size=1, **OPTIONS["prefix"])
    expected = greedy.predict("a bc")

    def said(**options: Any) -> TextCompletion:
        [[found]] = generate_text(
            run.model, run.params, run.tokenizer, ["a bc"], sampling=SamplingConfig(0.0),
            max_new_tokens=6, data=run.config.data, **options,
        )  # fmt: skip
        return found

    found = said(both_ways=True, sources=True)
    assert found.text == expected["text"]
    total = sum(found.logprobs)
    assert total != pytest.approx(sum(said(sources=True).logprobs), abs=1e-3)
    request = Request([*b"a bc", EOS], found.tokens, "x")
    [own] = score(run.model, run.params, [request], both_ways=True)
    assert own.logprob == pytest.approx(total, abs=1e-3)
    # What learned from prefixes goes on where the prompt ends.
    prefix = dataclasses.replace(tiny_config("continuation"), objective=PrefixLM())
    assert reads_both_ways(prefix) and not reads_sources(prefix)
    assert not reads_both_ways(tiny_run("joined").config) and reads_sources(tiny_config("joined"))
    assert not reads_both_ways(tiny_config("continuation"))
    with pytest.raises(ConfigError, match="neither a draft nor contrastive search"):
        generate_text(
            run.model, run.params, run.tokenizer, ["a"], sampling=ContrastiveConfig(0.5),
            max_new_tokens=2, both_ways=True,
        )  # fmt: skip


def test_lengths_are_those_of_training_and_sources_are_cut_to_them() -> None:
    def cut(kind: str, text: str, **options: Any) -> tuple[int, int, int]:
        """(most new tokens, tokens read, tokens left out)"""
        made = predictor(tiny_run(kind), **options)
        assert isinstance(made, TextPredictor)
        tokens, left_out = made._reader.read(Example({"text": text}, "x"))
        assert tokens[-1] == EOS
        return made.max_new_tokens, len(tokens), left_out

    # 23 bytes and eos.
    assert cut("joined", "x" * 30) == (10, LENGTH, 30 - 23)
    assert cut("prefix", "y" * 11) == (LENGTH // 2, 12, 0)
    assert cut("prefix", "y" * 16, max_new_tokens=8) == (8, 16, 1)
    with pytest.raises(ConfigError, match="leaves no room for a source among the model's 24"):
        predictor(tiny_run("prefix"), max_new_tokens=LENGTH - 1)
    # After a prompt there is what is left, unless somebody asked for more.
    limited = predictor(tiny_run("limited"))
    assert len(limited.predict("a continued !")["text"]) <= LENGTH - 13
    with pytest.raises(UserError, match="the example: the text has 24 tokens, and with an answer"):
        limited.predict("x" * LENGTH)
    with pytest.raises(UserError, match="has 13 tokens, and with max_new_tokens=12 after it"):
        predictor(tiny_run("limited"), max_new_tokens=12).predict("a continued !")


def test_candidates_are_the_best_first() -> None:
    made = predictor(tiny_run("joined"), num_return_sequences=3, batch_size=1, **OPTIONS["joined"])
    answer = made.predict("fine film")
    candidates = answer["candidates"]
    assert len(candidates) == 3 and len({each["text"] for each in candidates}) == 3
    assert candidates[0] == {key: answer[key] for key in ("text", "score", "finish_reason")}
    scores = [each["score"] for each in candidates]
    assert scores == sorted(scores, reverse=True)


def test_what_an_example_may_be() -> None:
    run = tiny_run("answers")
    asked = predictor(run)
    assert asked.inputs == ("question", "context")
    as_tuple = asked.predict(("who?", "It was Ada who wrote all of it."))
    assert same(as_tuple, asked.predict(QUESTIONS[0]))
    assert asked.predict([]) == []
    context = QUESTIONS[0]["context"]
    assert as_tuple["answer"] == context[as_tuple["start"] : as_tuple["end"]] != ""
    for wrong, message in (
        ("who?", r"the example has 1 values, and it should have question and context"),
        ({"question": "who?"}, r"the example has no context: an example needs question and conte"),
        ({**QUESTIONS[0], "contxt": ""}, r"nothing reads 'contxt'; did you mean 'context'"),
        ([QUESTIONS[0], {"question": "", "context": "x"}], r"example 2: the question is empty"),
    ):
        with pytest.raises(UserError, match=message):
            asked.predict(wrong)
    labels = predictor(tiny_run("classification"))
    pair = {"text": "a", "text_pair": "b"}
    assert same(labels.predict(("a", "b")), labels.predict({**pair, "label": "good", "id": 3}))
    assert not same(labels.predict("a"), labels.predict(pair))


def test_what_learned_from_pairs_needs_pairs() -> None:
    config: Any = tiny_config("classification")
    source = dataclasses.replace(
        config.data.train["t"], fields={"text": 0, "text_pair": 1, "label": 2}
    )
    data = dataclasses.replace(config.data, train={"t": source})
    [form] = forms_of(dataclasses.replace(config, data=data))
    assert (form.inputs, form.optional) == (("text", "text_pair"), ())
    assert forms_of(config)[0].optional == ("text_pair",)


def test_a_conversation_is_answered_without_the_answer_it_has() -> None:
    reply = predictor(tiny_run("reply"), batch_size=4, **OPTIONS["reply"])
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    answers = reply.predict(
        [
            "hi",
            {"messages": messages[:1]},
            {"messages": messages},
            {"prompt": "hi", "response": "x"},
        ]
    )
    assert len(answers) == 4 and all(same(answer, answers[0]) for answer in answers)


def test_what_ends_a_reply() -> None:
    run: Any = tiny_run("reply")

    def reader(after: str) -> ReplyReader:
        config = Instruction(template=ChatTemplate(before="{role}:", after=after, between=""))
        return ReplyReader(run, InstructionObjective(config, run.config.model), 8)

    assert reader("").eos_id == EOS and reader("").said([], [*b"ho", EOS]) == ("ho", "eos")
    # The marker is what ended it, whether it is one token or several.
    one = reader("|")
    assert one.eos_id == ord("|") and one.said([], list(b"ho|")) == ("ho", "stop")
    assert one.said([], [*b"ho", EOS, *b"x|"]) == ("ho", "eos")
    # Of a marker of several tokens the text is cut; what ends the search is still eos.
    long = reader("||")
    assert long.eos_id == EOS and long.said([], [*b"ho||", EOS]) == ("ho", "stop")
    assert long.said([], list(b"h|o")) == ("h|o", None)


def test_a_special_token_of_the_marker_ends_a_reply() -> None:
    """As in ChatML: the special token is what no answer has, and nothing after it is waited for."""
    run: Any = tiny_run("reply")
    eos = run.tokenizer.pieces([EOS])[0]
    assert eos, "the tokenizer spells it"

    def reader(after: str) -> ReplyReader:
        config = Instruction(template=ChatTemplate(before="{role}:", after=after, between=""))
        return ReplyReader(run, InstructionObjective(config, run.config.model), 8)

    for after, ends in ((f"{eos}\n", [EOS]), (f"\n{eos}\n", [10, EOS])):
        made = reader(after)
        assert made._chat.after == [*ends, 10] and made.eos_id == EOS
        assert made.said([], [*b"ho", *ends]) == ("ho", "stop")
    # What stands before it may be lacking, and text that is spelled like it is text.
    assert made.said([], [*b"ho", EOS]) == ("ho", "stop")
    assert made.said([], list(f"ho{eos}".encode())) == (f"ho{eos}", None)


def test_what_is_too_long_keeps_its_newest_messages_where_the_config_says_so() -> None:
    run: Any = tiny_run("reply")
    model = dataclasses.replace(run.config.model, position=Learned(64))

    def read(messages: list[tuple[str, str]], too_long: str = "cut") -> tuple[str, int]:
        data = dataclasses.replace(run.config.data, too_long=too_long)
        config = dataclasses.replace(run.config, model=model, data=data)
        made = ReplyReader(dataclasses.replace(run, config=config), run.objective, None)
        given = [{"role": role, "content": text} for role, text in messages]
        tokens, left_out = made.read(Example({"messages": given}, "x:3"))
        assert 1 <= made.new_tokens(tokens) <= 64 - len(tokens)
        return bytes(tokens).decode(), left_out

    # Half of the positions are for an answer; where less is left, that is enough.
    whole = "user:" + "x" * 45 + "\nassistant:"
    assert read([("user", "x" * 45)]) == (whole, 0) == read([("user", "x" * 45)], "error")
    talk = [("user", "x" * 60), ("assistant", "fine"), ("user", "who?")]
    for too_long in ("error", "drop"):
        with pytest.raises(UserError, match="the conversation has 102 .* exceeds the 64 positions"):
            read(talk, too_long)
    assert read(talk) == ("user:who?\nassistant:", 102 - 20)
    assert read([("system", "s"), *talk]) == ("system:s\nuser:who?\nassistant:", 102 - 20)
    # Of one that is too long by itself the beginning, with room for a whole answer.
    assert read([("user", "ab" + "é" * 40)]) == ("user:ab" + "é" * 7 + "\nassistant:", 98 - 32)
    with pytest.raises(UserError, match="the conversation has"):
        read([("system", "s" * 60), ("user", "who?")])


def test_models_without_an_answer_and_arguments_that_say_nothing() -> None:
    with pytest.raises(ConfigError, match="objective 'masked_lm', which has no answer to predict"):
        forms_of(tiny_config("masked"))
    for options in ({"beam": BeamConfig()}, {"max_new_tokens": 3}, {"num_return_sequences": 2}):
        with pytest.raises(ConfigError, match="is for models that write texts; objective 'classif"):
            predictor(tiny_run("classification"), **options)
    with pytest.raises(ConfigError, match="max_new_tokens must be at least 1"):
        predictor(tiny_run("joined"), max_new_tokens=0)
    with pytest.raises(ConfigError, match="num_return_sequences must be between 1 and num_beams=1"):
        predictor(tiny_run("reply"), num_return_sequences=2)
    assert set(KINDS) == {*GIVEN, "limited", "masked"}


def test_what_is_no_run_is_sent_to_convert(tmp_path: Path) -> None:
    foreign = tmp_path / "bert"
    foreign.mkdir()
    (foreign / "model.safetensors").touch()
    for path in (foreign, foreign / "model.safetensors"):
        with pytest.raises(UserError, match=f"lm convert --from={path} --workdir=NEW"):
            load(path)
    (foreign / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="it is a Hugging Face folder: lm convert --from="):
        load(foreign)
    with pytest.raises(UserError, match="no run in .*: there is no such folder"):
        load(tmp_path / "none")


def test_importing_lm_waits_for_nothing() -> None:
    code = "import sys, lm; assert callable(lm.load); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
