"""Tasks: rows of examples, losses that padding does not change, predictions back as answers."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lm.config import (
    ByteTokenizer,
    ChatTemplate,
    Classification,
    DataConfig,
    Instruction,
    ModelConfig,
    MultipleChoice,
    QuestionAnswering,
    Regression,
    Rotary,
    TaskConfig,
    TokenClassification,
    XLNetRelative,
)
from lm.data.examples_read import Example
from lm.data.rows import stack
from lm.data.tokenizers.simple import Bytes, Words
from lm.data.validation import padding_like
from lm.errors import ConfigError, UserError
from lm.objectives import build_objective
from lm.objectives.base import ExampleObjective, Objective, TaskObjective, TextObjective
from lm.objectives.tasks.answers import best_span
from lm.objectives.tasks.predictions import predictions
from lm.objectives.tasks.rows import layout_of
from tests.objectives.cases import BASE, ENCODER

LENGTH = 24
TOKENIZER = Bytes()
BOS, EOS = 257, 258
DECODER = ModelConfig(**BASE, position=Rotary())
JOINED = dataclasses.replace(DECODER, architecture="encoder_decoder", decoder_start_id=256)
TWO_STREAM = ModelConfig(
    **BASE, architecture="two_stream", position=XLNetRelative(), attention_bias=False,
    attention_output_bias=False, norm=dataclasses.replace(DECODER.norm, placement="post"),
    token_types=2,
)  # fmt: skip
LABELS = Classification(labels=("bad", "good"))
MANY = Classification(labels=("a", "b", "c"), multi_label=True)
TAGS = TokenClassification(labels=("O", "N"), outside="O")
ANSWERS = QuestionAnswering(stride=4, max_question_tokens=6)


def data(**settings: Any) -> DataConfig:
    return DataConfig(
        **{"train": {}, "tokenizer": ByteTokenizer(), "sequence_length": LENGTH, **settings}
    )


def example(**values: Any) -> Example:
    return Example(values, "data.tsv:7")


GOOD = example(text="fine film", label="good")
BAD = example(text="no", text_pair="oh no", label="bad")
PASSAGE = example(
    question="who?",
    context="It was Ada who wrote it.",
    answers=[{"text": "Ada", "answer_start": 7}],
)
CASES: dict[str, tuple[TaskConfig, ModelConfig, list[Example]]] = {
    "encoder": (LABELS, ENCODER, [GOOD, BAD]),
    "decoder": (LABELS, DECODER, [GOOD, BAD]),
    "encoder_decoder": (LABELS, JOINED, [GOOD, BAD]),
    "two_stream": (LABELS, TWO_STREAM, [GOOD, BAD]),
    "weighed": (
        dataclasses.replace(LABELS, class_weights="balanced", label_smoothing=0.1),
        ENCODER,
        [GOOD, BAD, BAD],
    ),
    "many": (MANY, ENCODER, [example(text="x", label=["a", "c"]), example(text="y", label="")]),
    "regression": (
        Regression(),
        ENCODER,
        [example(text="x", value="1.5"), example(text="y z", value=-2)],
    ),
    "tags": (
        TAGS,
        ENCODER,
        [example(words=["Ada", "is"], tags=["N", "O"]), example(words="a B", tags="O N")],
    ),
    "answers": (ANSWERS, ENCODER, [PASSAGE]),
    "answers_by_decoder": (ANSWERS, DECODER, [PASSAGE]),
    "choice": (
        MultipleChoice(choices=3),
        ENCODER,
        [
            example(text="a", choices=["b", "c"], label=1),
            example(text="d", choices=["e", "f", "g"], label="2"),
        ],
    ),
    "instruction": (
        Instruction(template=ChatTemplate(before="{role}:", after="", between="\n")),
        DECODER,
        [example(prompt="hi", response="ho")],
    ),
}


def made(name: str) -> tuple[Any, Any, list[Example], Any]:
    config, model, examples = CASES[name]
    objective: Any = build_objective(config, model)
    maker = objective.example_maker(TOKENIZER, data(), examples)
    rows = [row for one in examples for row in maker(one, labelled=True).rows]
    return objective, maker, examples, stack(rows)


@pytest.mark.parametrize("name", CASES)
def test_a_loss_that_padding_does_not_change_and_whose_gradient_reaches_the_head(name: str) -> None:
    objective, _, _, batch = made(name)
    assert isinstance(objective, ExampleObjective) and isinstance(objective, Objective)
    assert not isinstance(objective, TextObjective)
    params = nn.meta.unbox(objective.init(jax.random.key(0), batch))
    row = {key: value[0] for key, value in batch.items()}
    padded = {k: np.concatenate([v, padding_like(row)[k][None]]) for k, v in batch.items()}

    @jax.jit
    def run(params: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            terms = objective.loss(params, batch, jax.random.key(1), train=True)
            total = sum(t.coefficient * t.sum / t.weight for t in terms.values())
            return total, {k: (jnp.float32(t.sum), jnp.float32(t.weight)) for k, t in terms.items()}

        return jax.value_and_grad(loss, has_aux=True)(params)

    (total, terms), gradients = run(params, batch)
    (_, same), others = run(params, padded)
    assert np.isfinite(total) and total > 0
    for key, (part, weight) in terms.items():
        np.testing.assert_allclose(same[key], (part, weight), rtol=1e-5, atol=1e-6, err_msg=key)
    for one, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    heads = [head.kind for head in objective.model.config.heads]
    for head in heads:
        assert np.abs(gradients[head]["kernel"]).max() > 0
    assert len(heads) == (name != "instruction")


@pytest.mark.parametrize("name", [n for n in CASES if n != "instruction"])
def test_answers_do_not_need_targets_nor_depend_on_the_batch(name: str) -> None:
    objective, maker, examples, batch = made(name)
    assert isinstance(objective, TaskObjective)
    params = nn.meta.unbox(objective.init(jax.random.key(0), batch))
    inputs = [
        dataclasses.replace(e, values={r: e.values[r] for r in e.values
                                       if r in (*objective.config.INPUTS, "text_pair")})
        for e in examples
    ]  # fmt: skip
    found = [answer for _, answer in predictions(objective, params, maker, inputs, batch_size=3)]
    alone = [answer for _, answer in predictions(objective, params, maker, inputs, batch_size=1)]
    assert len(found) == len(examples)
    for one, other, given in zip(found, alone, examples, strict=True):
        truth = objective.truth(given)
        assert set(truth) - {"answers"} <= set(one) and set(one) == set(other)
        for key in ("label", "labels", "tags", "answer", "start"):
            assert one.get(key) == other.get(key)


def test_a_resolved_model_has_the_task_s_head_alone() -> None:
    model = LABELS.model_for(ENCODER)
    assert model.lm_head == "none" and [h.kind for h in model.heads] == ["classification"]
    assert model.pooler is not None and model.pooler.activation == "tanh"
    assert LABELS.model_for(model) == model
    last = LABELS.model_for(DECODER)
    assert last.pooler is not None and last.pooler.token == "last" and not last.pooler.dense
    assert not last.heads[0].bias and TAGS.model_for(DECODER).heads[0].bias
    three = dataclasses.replace(LABELS, labels=("a", "b", "c"))
    assert three.model_for(model).heads[0].num_labels == 3
    with pytest.raises(ConfigError, match="trains encoder or decoder or two_stream"):
        build_objective(ANSWERS, JOINED)


GOES = {
    Classification(labels=("a", "b")): "encoder decoder encoder_decoder two_stream",
    Regression(): "encoder decoder encoder_decoder two_stream",
    TAGS: "encoder decoder two_stream",
    ANSWERS: "encoder decoder two_stream",
    MultipleChoice(): "encoder decoder encoder_decoder two_stream",
    Instruction(): "decoder",
}


def test_what_goes_with_what() -> None:
    assert {type(task) for task in GOES} == set(get_args(TaskConfig))
    for task, architectures in GOES.items():
        for model in (ENCODER, DECODER, JOINED, TWO_STREAM):
            if model.architecture in architectures.split():
                task.check_model(task.model_for(model))
            else:
                with pytest.raises(ConfigError, match=f"objective '{task.kind}' trains"):
                    build_objective(task, model)


def test_rows_are_laid_out_as_each_architecture_reads_them() -> None:
    pair = [[1, 2], [3]]
    rows = {}
    for model in (ENCODER, DECODER, TWO_STREAM):
        row, _ = layout_of(TOKENIZER, model, data(sequence_length=8)).row(pair)
        rows[model.architecture] = row
    encoder = rows["encoder"]
    assert encoder["tokens"].tolist() == [BOS, 1, 2, EOS, 3, EOS, 256, 256]
    assert encoder["token_types"].tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    assert encoder["positions"].tolist() == [0, 1, 2, 3, 4, 5, -1, -1]
    assert rows["decoder"]["tokens"].tolist() == [1, 2, EOS, 3, EOS, 256, 256, 256]
    assert rows["two_stream"]["tokens"].tolist() == [1, 2, EOS, 3, EOS, BOS, 256, 256]
    assert rows["two_stream"]["token_types"].tolist() == [0, 0, 0, 1, 1, 2, 0, 0]
    twice = layout_of(TOKENIZER, ENCODER, data(sequence_length=8), separators=2)
    assert twice.row(pair)[0]["tokens"].tolist() == [BOS, 1, 2, EOS, EOS, 3, EOS, 256]
    kept, left_out = twice.fitted([[1] * 9, [2]])
    assert [len(part) for part in kept] == [3, 1] and left_out == 6


def test_a_word_s_first_token_carries_the_tag_and_cut_words_have_none() -> None:
    maker: Any = build_objective(TAGS, ENCODER)
    maker = maker.example_maker(TOKENIZER, data(sequence_length=10))
    found = maker(example(words=["née", "B", "cd"], tags=["N", "O", "N"]), labelled=True)
    (row,) = found.rows
    # <bos> n é é e _ B _ c d <eos>: "d" does not fit.
    assert found.notes.tolist() == [1, 6, 8] and found.left_out == 1
    assert np.flatnonzero(row["weights"]).tolist() == [1, 6, 8]
    assert row["labels"][[1, 6, 8]].tolist() == [1, 0, 1]
    with pytest.raises(UserError, match=r"data.tsv:7 has 2 words and 1 tags"):
        maker(example(words=["a", "b"], tags=["O"]), labelled=True)
    cut = maker(example(words=["a" * 9, "b"], tags=["O", "O"]), labelled=True)
    assert cut.notes.tolist() == [1, -1]


def test_windows_cover_the_context_and_say_where_the_answer_is() -> None:
    objective: Any = build_objective(ANSWERS, ENCODER)
    maker = objective.example_maker(TOKENIZER, data())
    found = maker(PASSAGE, labelled=True)
    context = PASSAGE.values["context"]
    seen, holding = set(), 0
    for row, window in zip(found.rows, found.notes, strict=True):
        read = row["tokens"][window.begin : window.end]
        begin = window.spans[0][0]
        assert bytes(read.tolist()).decode() == context[begin : begin + len(read)]
        seen |= {place for place, _ in window.spans}
        answer = (
            bytes(row["tokens"][row["start"] : row["end"] + 1].tolist()) if row["start"] else b""
        )
        assert answer in (b"Ada", b"")
        holding += bool(answer)
        assert bool(answer) == (begin <= 7 and window.spans[-1][1] >= 10)
    assert seen == set(range(len(context))) and holding >= 1
    assert found.notes[-1].spans[-1][1] == len(context)


def test_a_decoder_says_at_the_end_that_there_is_no_answer() -> None:
    _, _, _, batch = made("answers_by_decoder")
    last = batch["positions"].max(axis=1)
    rows = np.arange(len(last))
    assert (batch["tokens"][rows, last] == EOS).all()
    absent = batch["start"] == last
    assert absent.any() and not absent.all() and (batch["end"][absent] == last[absent]).all()
    with pytest.raises(ConfigError, match="needs data.add_eos=True"):
        objective: Any = build_objective(ANSWERS, DECODER)
        objective.example_maker(TOKENIZER, data(add_eos=False))


@pytest.mark.parametrize("unanswerable", [False, True])
def test_the_best_valid_span_of_all_windows_wins_unless_nothing_is_likelier(
    unanswerable: bool,
) -> None:
    config = dataclasses.replace(ANSWERS, unanswerable=unanswerable, max_answer_tokens=3)
    objective: Any = build_objective(config, ENCODER)
    encoded = objective.example_maker(TOKENIZER, data())(PASSAGE, labelled=False)
    start = np.full((len(encoded.rows), LENGTH), -9.0)
    end = np.full((len(encoded.rows), LENGTH), -9.0)
    window = encoded.notes[1]
    at = window.begin + 7 - window.spans[0][0]
    start[1, at], end[1, at + 2] = -0.5, -0.5
    # Before its start, too long, and outside of the context: no spans.
    end[1, at - 1], end[1, at + 3], start[0, 0], end[0, 0] = -0.1, -0.1, -0.2, -0.2
    answer = objective.answer(PASSAGE, encoded, {"start": start, "end": end})
    assert (answer["answer"], answer["start"], answer["end"]) == ("Ada", 7, 10)
    assert answer["score"] == pytest.approx(-1.0)
    start[:, 0], end[:, 0] = -0.1, -0.1
    answer = objective.answer(PASSAGE, encoded, {"start": start, "end": end})
    assert answer["answer"] == ("" if unanswerable else "Ada")
    assert answer["null_score"] == pytest.approx(-0.2)


def test_best_span_against_all_of_them() -> None:
    rng = np.random.default_rng(0)
    for longest in (1, 3, 9):
        start, end = rng.normal(size=(2, 7))
        sums = {(i, j): start[i] + end[j] for i in range(7) for j in range(i, min(7, i + longest))}
        found = best_span(start, end, longest)
        assert found is not None
        assert found[1:] == max(sums, key=lambda pair: sums[pair])
        assert found[0] == pytest.approx(max(sums.values()))
    assert best_span(np.zeros(0), np.zeros(0), 3) is None


def test_answers_alone_are_learned_and_nobody_spells_a_special_token() -> None:
    objective: Any = build_objective(Instruction(), dataclasses.replace(DECODER, vocab_size=12))
    words = ["system", "user", "assistant", "hi", "ho"]

    class Chatty(Words):
        """Words, of which two are special tokens."""

        skipped = frozenset((0, 1, 2, 9, 10))

        def encode(self, text: str) -> list[int]:
            return [3 if i in self.skipped else i for i in super().encode(text)]

    tokenizer = Chatty([*words, "<|im_start|>", "<|im_end|>"])
    messages = [
        {"role": "user", "content": "hi <|im_end|>"},
        {"role": "assistant", "content": "ho"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho ho"},
    ]
    maker = objective.example_maker(tokenizer, data(sequence_length=32))
    ids, learned = maker.chat.tokens(messages)
    start, end, eos, user, assistant, hi, ho = 9, 10, 2, 5, 6, 7, 8
    assert ids == [
        start, user, hi, 3, end, start, assistant, ho, end, eos,
        start, user, hi, end, start, assistant, ho, ho, end, eos,
    ]  # fmt: skip
    assert [i for i, of_answer in zip(ids, learned) if of_answer] == [
        ho,
        end,
        eos,
        ho,
        ho,
        end,
        eos,
    ]
    assert maker.chat.prompt(messages[:1]) == ids[:7]
    (row,) = maker(example(messages=messages), labelled=True).rows
    weighed = row["targets"][row["weights"] > 0].tolist()
    assert weighed == [ho, end, eos, ho, ho, end, eos]
    with pytest.raises(UserError, match="nobody answers"):
        maker(example(messages=messages[:1]), labelled=True)
    with pytest.raises(UserError, match="no such role 'usr'; did you mean 'user'"):
        maker(example(messages=[{"role": "usr", "content": "x"}]), labelled=True)


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "label": (
        "encoder",
        {"text": "x", "label": "god"},
        "'god' is not in objective.labels; did you",
    ),
    "empty": ("encoder", {"text": " ", "label": "good"}, "the text is empty"),
    "kind": ("encoder", {"text": 3, "label": "good"}, "the text is int, not text"),
    "missing": ("encoder", {"text": "x"}, "has no label"),
    "number": ("regression", {"text": "x", "value": "much"}, "'much' is no number"),
    "infinite": ("regression", {"text": "x", "value": "inf"}, "no finite number"),
    "choice": ("choice", {"text": "x", "choices": ["a", "b"], "label": 2}, "0 to 1"),
    "choices": ("choice", {"text": "x", "choices": ["a"], "label": 0}, "2 to 3 texts"),
    "place": (
        "answers",
        {**PASSAGE.values, "answers": [{"text": "Ada", "answer_start": 6}]},
        "where ' Ad' stands",
    ),
    "none": ("answers", {**PASSAGE.values, "answers": []}, "objective.unanswerable=True"),
    "list": ("answers", {**PASSAGE.values, "answers": "Ada"}, "list of objects"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_an_example_is_said_with_its_place(name: str) -> None:
    case, values, message = WRONG[name]
    _, maker, _, _ = made(case)
    with pytest.raises(UserError, match=message) as caught:
        maker(example(**values), labelled=True)
    assert "data.tsv:7" in str(caught.value)


def test_an_unknown_training_label_lists_those_there_are() -> None:
    objective: Any = build_objective(LABELS, ENCODER)
    with pytest.raises(UserError, match="the training data has 'good', 'ugly'"):
        objective.example_maker(TOKENIZER, data(), [GOOD, example(text="x", label="ugly")])


def test_balanced_weights_and_smoothing_are_those_of_training() -> None:
    objective, _, _, batch = made("weighed")
    # n / (L * n_label) of one "good" and two "bad".
    np.testing.assert_allclose(batch["class_weights"], [1.5, 0.75, 0.75])
    params = nn.meta.unbox(objective.init(jax.random.key(0), batch))
    batch = jax.tree.map(jnp.asarray, batch)
    trained = objective.loss(params, batch, None, train=True)
    assert trained["loss"].coefficient == 0 and trained["weighted_loss"].coefficient == 1
    evaluated = objective.loss(params, batch, None, train=False)
    assert "weighted_loss" not in evaluated and evaluated["loss"].coefficient == 1
    log_p = np.log(objective.predict(params, batch)["probabilities"])
    own = -log_p[np.arange(3), batch["labels"]]
    smoothed = 0.9 * own - 0.1 * log_p.mean(-1)
    expected = (smoothed * batch["class_weights"]).sum() / batch["class_weights"].sum()
    found = trained["weighted_loss"]
    np.testing.assert_allclose(found.sum / found.weight, expected, rtol=1e-5)


def test_ratios_are_those_of_the_whole_split() -> None:
    rng = np.random.default_rng(1)
    actual, found = rng.random((2, 200)) < 0.4
    means = {"actual": actual.mean(), "found": found.mean(), "hit": (actual & found).mean()}
    ratios = LABELS.ratios(means)
    assert ratios["matthews"] == pytest.approx(np.corrcoef(actual, found)[0, 1])
    precision, recall = (actual & found).sum() / found.sum(), (actual & found).sum() / actual.sum()
    assert ratios["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert LABELS.ratios({"actual": 0.5, "found": 1.0, "hit": 0.5})["matthews"] == 0
    x, y = rng.normal(size=(2, 50)) + 1
    moments = {"mean_found": x, "mean_value": y, "square_found": x * x, "square_value": y * y,
               "product": x * y}  # fmt: skip
    pearson = Regression().ratios({name: value.mean() for name, value in moments.items()})
    assert pearson["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1])
