"""Sources and targets: their order, who sees what (by gradient), their lengths, and refusals."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import (
    Denoising,
    Learned,
    MixtureOfDenoisers,
    PrefixLM,
    SequenceToSequence,
    SpanCorruption,
)
from lm.data.rows import stack
from lm.errors import ConfigError
from lm.model import Mask
from lm.objectives import build_objective
from tests.objectives.cases import (
    DECODER,
    JOINED,
    LENGTH,
    TOKENIZER,
    VOCAB,
    assert_equal_terms,
    batch_of,
    case,
    distinct,
    evaluated,
    on_device,
    params_of,
    rows,
)

EOS, START = 258, 256
SEQUENCES = ("spans", "ul2", "bart", "prefix", "prefix decoder")


def test_span_corruption_tells_the_spans_in_order() -> None:
    """Each sentinel (the last id first) before its span, and back in its place they are the
    text."""
    objective = build_objective(SpanCorruption(density=0.3, mean_length=2.0), JOINED)
    for row, text in zip(rows(objective, [99] * 20), (distinct(99, n) for n in range(20))):
        source = row["source"][row["source_positions"] >= 0].tolist()
        target = row["targets"][row["weights"] > 0].tolist()
        assert source.pop() == target.pop() == EOS
        # A row that is full fills source and target.
        assert len(source) == LENGTH - 1 and len(target) == len(row["targets"]) - 1
        sentinels = [t for t in target if t > EOS]
        assert sentinels == [VOCAB - 1 - i for i in range(len(sentinels))] and sentinels
        assert [t for t in source if t > EOS] == sentinels
        assert target[0] == sentinels[0]
        starts = [i for i, t in enumerate(target) if t > EOS]
        ends = [*starts[1:], len(target)]
        spans = {target[i]: target[i + 1 : end] for i, end in zip(starts, ends)}
        whole = [x for t in source for x in spans.get(t, [t])]
        assert whole == text[: len(whole)].tolist()


@pytest.mark.parametrize("name", ["spans", "prefix decoder"])
def test_terms_by_formula(name: str) -> None:
    """The decoder reads its start token and then the targets, one place later."""
    objective = case(name)
    batch = batch_of(objective)
    params = params_of(objective, batch)
    if name == "spans":
        start = np.full((4, 1), START, np.int32)
        tokens = np.concatenate([start, batch["targets"][:, :-1]], axis=1)
        given = {"source": batch["source"], "source_positions": batch["source_positions"]}
        logits, _ = objective.model.apply(
            {"params": params}, jnp.asarray(tokens), **on_device(given)
        )
    else:
        place = np.arange(LENGTH)
        prefix = batch["prefix_length"][:, None, None]
        mask = Mask(allowed=jnp.asarray((place <= place[:, None]) | (place < prefix))[:, None])
        logits, _ = objective.model.apply(
            {"params": params}, jnp.asarray(batch["tokens"]), mask=mask
        )
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    of_target = np.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
    weights = batch["weights"]
    right = logits.argmax(-1) == batch["targets"]
    assert_equal_terms(
        evaluated(objective, params, batch),
        {
            "loss": (-(of_target * weights).sum(), weights.sum()),
            "accuracy": ((right * weights).sum(), weights.sum()),
        },
    )


def read_per_place(objective: Any, params: Any, batch: Any) -> np.ndarray:
    """[places, V]: how much the loss of each place of the target depends on reading each token."""
    count = batch["targets"].shape[1]

    def read(weights: Any) -> Any:
        def loss(params: Any) -> Any:
            given = {**on_device(batch), "weights": weights[None]}
            return objective.loss(params, given, None, train=False)["loss"].sum

        table = jax.grad(loss)(params)["token_embedding"]["embedding"]
        return jnp.abs(table).max(-1)

    return np.asarray(jax.jit(jax.vmap(read))(jnp.eye(count)))


@pytest.mark.parametrize(
    "name", ["spans", "bart", "prefix", "prefix decoder", "texts", "texts decoder"]
)
def test_targets_see_the_source_and_the_targets_before_them(name: str) -> None:
    config = {
        "spans": SpanCorruption(density=0.4, mean_length=2.0),
        "bart": Denoising(permute_sentences=False),
        "prefix": PrefixLM(),
        "prefix decoder": PrefixLM(),
        "texts": SequenceToSequence(),
        "texts decoder": SequenceToSequence(),
    }[name]
    model = DECODER if name.endswith("decoder") else JOINED
    model = dataclasses.replace(model, num_layers=2, tie_embeddings=False)
    objective = build_objective(config, model)
    batch = batch_of(objective, (19,), seed=3)
    params = params_of(objective, batch)
    seen = read_per_place(objective, params, batch) > 1e-7
    targets = batch["targets"][0]
    count = int(batch["weights"][0].sum())
    places = np.flatnonzero(batch["weights"][0])
    if name.endswith("decoder"):
        prefix, end = int(batch["prefix_length"][0]), int((batch["positions"][0] >= 0).sum())
        source = batch["tokens"][0][:prefix]
        # The prefix LM adds an end of its own.
        assert end == (19 if name == "prefix decoder" else 18)
        assert places.tolist() == list(range(prefix - 1, end))
        # It sees itself both ways, and nothing of what follows.
        assert seen[:prefix][:, source].all()
        assert not seen[:prefix][:, np.setdiff1d(batch["tokens"][0][:end], source)].any()
    else:
        source = batch["source"][0][batch["source_positions"][0] >= 0]
        assert places.tolist() == list(range(count))
    assert len(source) > 3 and count > 3
    for n, place in enumerate(places):
        # All of the source, in its own order or not.
        assert seen[place][source].all()
        for m in range(count):
            token = targets[places[m]]
            if token not in source:
                assert seen[place][token] == (m < n), (n, m)


@pytest.mark.parametrize("name", SEQUENCES)
def test_sources_fit_and_padding_weighs_nothing(name: str) -> None:
    objective = case(name)
    make = objective.row_maker(TOKENIZER, LENGTH)
    found = rows(objective, [99] * 40 + list(range(1, 24)))
    assert make.lookahead == 0 and make.positions >= LENGTH * 0.8
    for row in found:
        length = len(row["targets"])
        assert length <= LENGTH
        if name == "prefix decoder":
            assert row["tokens"].shape == (LENGTH,)
            used = int((row["positions"] >= 0).sum())
            weighed = np.flatnonzero(row["weights"])
            assert weighed.max(initial=-1) < used
            if len(weighed) > 0:
                assert row["targets"][weighed[-1]] == EOS and weighed[-1] == used - 1
        else:
            assert row["source"].shape == (LENGTH,)
            sizes = int((row["source_positions"] >= 0).sum()), int(row["weights"].sum())
            assert row["source"][sizes[0] - 1] == EOS == row["targets"][sizes[1] - 1]
            assert not row["weights"][sizes[1] :].any()
        assert {k: (x.shape, x.dtype) for k, x in row.items()} == {
            k: (x.shape, x.dtype) for k, x in found[0].items()
        }


def pair_rows(model: Any, *sizes: int, **settings: Any) -> dict[str, np.ndarray]:
    """The row of a source 0, 1, 2 ... and a target 100, 101 ..., an eos after either."""
    make = build_objective(SequenceToSequence(**settings), model).row_maker(TOKENIZER, 8)
    texts = (np.arange(begin, begin + n - 1) for begin, n in zip((0, 100), sizes))
    pieces = [np.append(text, EOS).astype(np.int32) for text in texts]
    return make(pieces, np.random.default_rng(0), joined=False, other=lambda rng: pieces[0])


def test_a_source_and_its_target_literally() -> None:
    row = pair_rows(JOINED, 4, 3, target_length=5)
    assert row["source"].tolist() == [0, 1, 2, EOS, 256, 256, 256, 256]
    assert row["source_positions"].tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
    assert row["targets"].tolist() == [100, 101, EOS, 256, 256]
    assert row["weights"].tolist() == [1, 1, 1, 0, 0]
    row = pair_rows(DECODER, 4, 3)
    assert row["tokens"].tolist() == [0, 1, 2, EOS, 100, 101, 256, 256]
    assert row["targets"].tolist() == [1, 2, EOS, 100, 101, EOS, 256, 256]
    assert row["weights"].tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    assert row["prefix_length"] == 4


def test_a_pair_that_is_too_long_is_cut_before_its_ends() -> None:
    row = pair_rows(JOINED, 10, 9, target_length=5)
    assert row["source"].tolist() == [0, 1, 2, 3, 4, 5, 6, EOS]
    assert row["targets"].tolist() == [100, 101, 102, 103, EOS]
    # The longer one gives way, and the last token of a target is none that a decoder reads.
    row = pair_rows(DECODER, 20, 3)
    assert row["tokens"].tolist() == [0, 1, 2, 3, 4, EOS, 100, 101]
    assert row["targets"][-1] == EOS


def texts_of(sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    """Sources and targets in turn, of so many different bytes and their ends."""
    flat = [n for pair in sizes for n in pair]
    return [np.append(distinct(n - 1, seed), EOS).astype(np.int32) for seed, n in enumerate(flat)]


SIZES = [(4, 3), (6, 2), (2, 5), (5, 9), (8, 3)]


@pytest.mark.parametrize("position", [JOINED.position, Learned(LENGTH)])
def test_packed_pairs_are_learned_as_if_alone(position: Any) -> None:
    model = dataclasses.replace(JOINED, position=position)
    objective = build_objective(SequenceToSequence(label_smoothing=0.1, target_length=14), model)
    alone = objective.row_maker(TOKENIZER, 12)
    packed = alone.packed
    texts = texts_of(SIZES)

    def made(make: Any, pieces: list[np.ndarray]) -> Any:
        return make(pieces, np.random.default_rng(0), joined=False, other=lambda rng: pieces[0])

    separate = stack([made(alone, texts[i : i + 2]) for i in range(0, len(texts), 2)])
    together = stack([made(packed, texts[:6]), made(packed, texts[6:8]), made(packed, texts[8:])])
    params = params_of(objective, separate)

    @jax.jit
    def smoothed(params: Any, batch: Any) -> Any:
        terms = objective.loss(params, batch, None, train=True)
        return terms["smoothed_loss"].sum, {n: (t.sum, t.weight) for n, t in terms.items()}

    slopes = jax.grad(smoothed, has_aux=True)
    of_separate, expected = slopes(params, separate)
    of_together, found = slopes(params, together)
    assert_equal_terms(found, expected)
    for one, other in zip(jax.tree.leaves(of_together), jax.tree.leaves(of_separate)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert packed.capacity == (12, 14) and alone.capacity is None


def test_a_packed_row_literally() -> None:
    texts = [np.array(text, np.int32) for text in ([1, 2, EOS], [7, EOS], [3, EOS], [8, 9, EOS])]
    make = build_objective(SequenceToSequence(target_length=6), JOINED).row_maker(TOKENIZER, 7)
    row = make.packed(texts, np.random.default_rng(0), joined=False, other=lambda rng: texts[0])
    assert row["source"].tolist() == [1, 2, EOS, 3, EOS, 256, 256]
    assert row["source_positions"].tolist() == [0, 1, 2, 0, 1, -1, -1]
    assert row["source_segment_ids"].tolist() == [1, 1, 1, 2, 2, 0, 0]
    assert row["targets"].tolist() == [7, EOS, 8, 9, EOS, 256]
    assert row["positions"].tolist() == [0, 1, 0, 1, 2, -1]
    assert row["segment_ids"].tolist() == [1, 1, 2, 2, 2, 0]
    assert row["weights"].tolist() == [1, 1, 1, 1, 1, 0]
    objective = build_objective(SequenceToSequence(target_length=6), JOINED)
    inputs = objective._of_pair(stack([row]))["tokens"][0].tolist()
    assert inputs[:5] == [START, 7, START, 8, 9]
    assert build_objective(SequenceToSequence(), DECODER).row_maker(TOKENIZER, 7).packed is None


def test_a_mode_token_says_which_denoiser() -> None:
    found = rows(case("ul2"), [99] * 60)
    # R, S and X are the last three ids; sentinels come before them.
    modes = {0: VOCAB - 3, 1: VOCAB - 3, 2: VOCAB - 2}
    for row in found:
        assert row["source"][0] == modes.get(int(row["denoiser"]), VOCAB - 1)
        marks = [t for t in row["source"][1:].tolist() if t > EOS]
        assert marks == [VOCAB - 4 - i for i in range(len(marks))]
        assert bool(marks) == (row["denoiser"] != 2)
    assert {int(row["denoiser"]) for row in found} == set(range(7))
    plain = build_objective(MixtureOfDenoisers(mode_tokens=False), JOINED)
    assert max(row["source"].max() for row in rows(plain, [99] * 30)) == VOCAB - 1


@pytest.mark.parametrize(
    ("config", "vocab", "length", "message"),
    [
        (MixtureOfDenoisers(), 261, 24, "model.vocab_size to at least 262, or objective.mode_tok"),
        (MixtureOfDenoisers(), 262, 24, "sentinels need as many ids above the tokenizer's 259"),
        (MixtureOfDenoisers(), 300, 3, "data.sequence_length=3 is too short for UL2's denoisers"),
        (SpanCorruption(), 259, 24, "model's vocab_size is 259: set it to at least 260"),
        (SpanCorruption(), 300, 2, "a source of 2 is too short"),
        (Denoising(), 259, 24, "no mask token"),
        (Denoising(), 300, 2, "data.sequence_length=2 leaves no room"),
    ],
)
def test_refusals(config: Any, vocab: int, length: int, message: str) -> None:
    objective = build_objective(config, dataclasses.replace(JOINED, vocab_size=vocab))
    with pytest.raises(ConfigError, match=re.escape(message)):
        objective.row_maker(TOKENIZER, length)


@pytest.mark.parametrize("name", [*SEQUENCES, "permutation"])
def test_a_row_is_one_text(name: str) -> None:
    make = case(name).row_maker(TOKENIZER, LENGTH)
    pieces = [distinct(5, 0), distinct(6, 1)]
    for joined in (True, False):
        rng = np.random.default_rng(0)
        if joined:
            make(pieces, rng, joined=joined, other=lambda rng: pieces[0])
        else:
            with pytest.raises(ConfigError, match="takes a row for one text"):
                make(pieces, rng, joined=joined, other=lambda rng: pieces[0])
