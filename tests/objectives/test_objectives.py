"""What holds for every objective: which models it trains, that padding and fillers weigh nothing,
that batches are functions of (seed, step), that microbatches and devices change nothing, and that
it learns."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from lm.config import (
    ByteTokenizer,
    DataConfig,
    ParallelConfig,
    ReplacedTokens,
    TextFiles,
)
from lm.config.objective import TextObjective
from lm.data.pipeline import Dataset, prepare_dataset
from lm.data.rows import stack
from lm.data.validation import padding_like
from lm.errors import ConfigError
from lm.objectives import Objective, build_objective
from lm.parallel.mapping import Program, build_mapping
from lm.train.state import boxed_params, create_state
from lm.train.step import evaluate_step, multi_step, train_step
from tests.objectives.cases import (
    CASES,
    DECODER,
    DETECTOR,
    GENERATOR,
    JOINED,
    LENGTH,
    PACKED,
    PAIRED,
    PAIRS,
    TARGETS,
    TOKENIZER,
    TWO_STREAM,
    VOCAB,
    assert_equal_terms,
    batch_of,
    case,
    evaluated,
    filler,
    on_device,
    params_of,
    pieces_of,
)
from tests.parallel.toy import update_error

MODELS = {
    "decoder": DECODER,
    "encoder": dataclasses.replace(
        PAIRED, embedding_size=8, heads=(*PAIRED.heads, *DETECTOR.heads)
    ),
    "encoder_decoder": JOINED,
    "two_stream": TWO_STREAM,
}
# What goes with what; every other pair is a config error.
TABLE = {
    "causal_lm": ("decoder",),
    "masked_lm": ("encoder",),
    "replaced_tokens": ("encoder",),
    "span_corruption": ("encoder_decoder",),
    "mixture_of_denoisers": ("encoder_decoder",),
    "denoising": ("encoder_decoder",),
    "prefix_lm": ("decoder", "encoder_decoder"),
    "sequence_to_sequence": ("decoder", "encoder_decoder"),
    "permutation_lm": ("two_stream",),
}
KINDS = {config.kind: config for config in get_args(TextObjective)}


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("kind", TABLE)
def test_what_goes_with_what(kind: str, architecture: str) -> None:
    assert set(KINDS) == set(TABLE)
    given = {"generator": GENERATOR} if kind == "replaced_tokens" else {}
    if kind == "permutation_lm":
        given = {"num_predict": 6}
    config, model = KINDS[kind](**given), MODELS[architecture]
    if architecture not in TABLE[kind]:
        message = f"objective '{kind}' trains .*model.architecture is '{architecture}'"
        with pytest.raises(ConfigError, match=message):
            build_objective(config, model)
        return
    objective = build_objective(config, model)
    assert isinstance(objective, Objective)
    batch = batch_of(objective)
    params = jax.eval_shape(lambda: nn.meta.unbox(objective.init(jax.random.key(0), batch)))
    for train in (True, False):
        loss = functools.partial(objective.loss, train=train)
        terms = jax.eval_shape(loss, params, batch, jax.eval_shape(lambda: jax.random.key(0)))
        assert terms["loss"].sum.shape == terms["loss"].weight.shape == ()
    # Where the model of a run is found among them.
    used = functools.reduce(lambda tree, name: tree[name], config.MODEL, params)
    assert "token_embedding" in used


def spoiled(objective: Any, batch: Any) -> Any:
    """The batch with other tokens at padding, and other targets where nothing is weighed."""
    changed = dict(batch)
    for name, where in (("tokens", "positions"), ("source", "source_positions")):
        if where in batch:
            padding = batch[where] < 0
            assert padding.any()
            changed[name] = np.where(padding, 42, batch[name])
    unweighed = batch["weights"] == 0
    if isinstance(objective.config, ReplacedTokens):
        # Every real token has its share of the loss, masked or not.
        unweighed = batch["positions"] < 0
    changed["targets"] = np.where(unweighed, 43, batch["targets"])
    return changed


@pytest.mark.parametrize("name", CASES)
def test_padding_and_fillers_weigh_nothing(name: str) -> None:
    objective = case(name)
    sizes = (24, 13, 24, 7)
    batch = batch_of(objective, sizes)
    params = params_of(objective, batch)
    expected = evaluated(objective, params, batch)
    assert evaluated(objective, params, spoiled(objective, batch)) == expected
    assert all(np.isfinite(x) for pair in expected.values() for x in pair)
    assert expected["loss"][1] > 0
    # Rows of padding, with which the last batch of an evaluation is filled up.
    assert_equal_terms(evaluated(objective, params, filler(batch, 2)), expected)
    empty = evaluated(objective, params, padding_like(batch))
    assert set(empty.values()) == {(0.0, 0.0)}


@pytest.mark.parametrize("name", PACKED)
def test_packed_fillers_weigh_nothing(name: str) -> None:
    objective = case(name)
    make = objective.row_maker(TOKENIZER, LENGTH)
    pieces = [np.arange(97, 105, dtype=np.int32), np.arange(48, 54, dtype=np.int32)]
    made = [
        make(given, np.random.default_rng(0), joined=False, other=lambda rng: pieces[0])
        for given in (pieces, pieces[:1])
    ]
    batch = stack(made)
    assert "segment_ids" in batch
    params = params_of(objective, batch)
    expected = evaluated(objective, params, batch)
    assert_equal_terms(evaluated(objective, params, filler(batch, 2)), expected)
    padding = batch["segment_ids"] == 0
    changed = {k: np.where(padding, 42, batch[k]) for k in ("tokens", "targets")}
    assert evaluated(objective, params, {**batch, **changed}) == expected


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty paragraphs of 3 to 60 characters."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    words = ["ab", "cde", "f", "ghij", "kl.", "mn"]
    text = "\n\n".join(" ".join(rng.choice(words, rng.integers(1, 18))) for _ in range(40))
    (folder / "text.txt").write_text(text)
    return folder


def dataset(corpus: Path, name: str, *, seed: int = 0, **settings: Any) -> Dataset:
    objective = case(name)
    if name in PAIRS:
        settings = {"packing": "none", **settings}
    source = TextFiles(paths=("text.txt",), document="paragraph")
    if name in TARGETS:
        settings = {"packing": "none", "too_long": "cut", **settings}
        source = TextFiles(paths=("text.txt",), target_paths=("text.txt",), document="line")
    config = DataConfig(
        train={"text": source},
        validation={"text": source},
        tokenizer=ByteTokenizer(),
        sequence_length=LENGTH,
        **settings,
    )
    return prepare_dataset(
        config,
        vocab_size=VOCAB,
        make_rows=lambda tokenizer: objective.row_maker(tokenizer, LENGTH),
        seed=seed,
        data_root=corpus,
        cache_dir=corpus / "cache",
    )


def assert_same(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("name", CASES)
def test_a_batch_is_a_function_of_seed_and_step(corpus: Path, name: str) -> None:
    one, again = dataset(corpus, name), dataset(corpus, name)
    straight = [one.batch(step, 8) for step in range(4)]
    # In another order, from another place, in parts.
    for step in (3, 1):
        assert_same(again.batch(step, 8), straight[step])
    iterator = again.train_batches(2, 8)
    for step in (2, 3):
        assert_same(next(iterator), straight[step])
    halves = [again.batch(1, 8, process, 2) for process in range(2)]
    assert_same(jax.tree.map(lambda *x: np.concatenate(x), *halves), straight[1])
    other = dataset(corpus, name, seed=1).batch(0, 8)
    assert any((other[k] != straight[0][k]).any() for k in other)
    shapes = [{k: (x.shape, x.dtype) for k, x in batch.items()} for batch in straight]
    assert all(found == shapes[0] for found in shapes)


AS_IT_IS = ("causal", "texts", "texts decoder")


@pytest.mark.parametrize("name", [name for name in CASES if name not in AS_IT_IS])
def test_a_text_is_corrupted_anew_in_every_epoch(corpus: Path, name: str) -> None:
    data = dataset(corpus, name, shuffle=False)
    rows = data.rows_per_epoch
    epochs = [data.batch(epoch, rows) for epoch in range(2)]
    differ = [k for k in epochs[0] if (epochs[0][k] != epochs[1][k]).any()]
    assert differ
    if name in ("masked", "wrapped spans", "replaced", "all originals", "translation"):
        assert differ == ["tokens", "weights"]


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("settings", [{"packing": "first_fit"}, {"segments": True}], ids=str)
def test_packed_rows_are_all_alike(corpus: Path, name: str, settings: Any) -> None:
    data = dataset(corpus, name, **settings)
    batch = data.batch(0, data.rows_per_epoch)
    numbers = batch["segment_ids"].max(1)
    assert numbers.min() == 1 and numbers.max() > 1
    split = data.validation["text"]
    (whole,) = split.batches(split.rows + 3)
    assert not whole["segment_ids"][-3:].any() and whole["segment_ids"][0].any()


@pytest.mark.parametrize("name", ["spans", "prefix decoder", "permutation", "wrapped spans"])
def test_packing_that_an_objective_cannot_keep_apart(corpus: Path, name: str) -> None:
    data = dataset(corpus, name, segments=True)
    with pytest.raises(ConfigError, match="one text.*packing"):
        data.batch(0, data.rows_per_epoch)
    dataset(corpus, name, packing="none").batch(0, 8)


ROWS, STEPS = 8, 2
OPTIMIZER = optax.sgd(0.1, momentum=0.9)
# As in tests/parallel: sums of the same rows in another order, compared after steps of SGD.
LOSS_TOLERANCE, UPDATE_TOLERANCE = 1e-5, 1e-4
MAPPINGS = {
    "one": (ParallelConfig(), 1, 1),
    "microbatches": (ParallelConfig(), 1, 2),
    "pmap 2": (ParallelConfig(mapping="data_parallel"), 2, 1),
    "sharded 4": (ParallelConfig(data=2, fsdp=2), 4, 2),
}


@functools.cache
def trained(name: str, mapping: str) -> tuple[Any, Any, Any]:
    """Start, end and metrics of two steps on rows of very different weights."""
    objective = case(name)
    batches = [batch_of(objective, range(3, 24, 3)[: ROWS - 1], seed=i) for i in range(STEPS)]
    batches = [filler(batch, 1) for batch in batches]
    config, devices, microbatches = MAPPINGS[mapping]

    def train(state: Any, stacked: Any, *, reduce: Any, device: Any) -> Any:
        step = functools.partial(
            train_step,
            objective=objective,
            optimizer=OPTIMIZER,
            microbatches=microbatches,
            reduce=reduce,
            device=device,
        )
        return multi_step(step)(state, stacked)

    program = Program(
        init=lambda: create_state(objective, OPTIMIZER, batches[0], 0, ema=False),
        boxed_params=lambda: boxed_params(objective, batches[0], 0),
        train=train,
        evaluate=functools.partial(evaluate_step, objective=objective),
    )
    mapped = build_mapping(
        config,
        program,
        batch_size=ROWS,
        microbatches=microbatches,
        devices=jax.devices()[:devices],
    )
    state = mapped.init()
    start = jax.device_get(mapped.to_save(state))
    state, metrics = mapped.train(state, stack(batches))
    return start, jax.device_get(mapped.to_save(state)), jax.device_get(metrics)


@pytest.mark.parametrize("mapping", list(MAPPINGS)[1:])
@pytest.mark.parametrize("name", ["masked", pytest.param("replaced", marks=pytest.mark.slow)])
def test_microbatches_and_devices_change_nothing(name: str, mapping: str) -> None:
    start, end, metrics = trained(name, "one")
    _, actual, found = trained(name, mapping)
    assert found.keys() == metrics.keys()
    for key in metrics:
        np.testing.assert_allclose(
            found[key], metrics[key], rtol=LOSS_TOLERANCE, atol=1e-6, err_msg=key
        )
    assert update_error(start.params, end.params, actual.params) < UPDATE_TOLERANCE


QUICK = ("masked", "permutation")


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES],
)
def test_it_learns(name: str) -> None:
    """Forty steps on the same rows of a text that repeats itself."""
    objective = case(name)
    make = objective.row_maker(TOKENIZER, LENGTH)
    most = make.positions + make.lookahead
    text = np.frombuffer(b"abcdef. " * 20, np.uint8).astype(np.int32)
    if name in PAIRS:
        # Of which there is a first part and a second one.
        text = np.frombuffer(b"ABA. BAB. ABC. def. fed. fdf. ", np.uint8).astype(np.int32)
    digits = np.frombuffer(b"0123456. " * 20, np.uint8).astype(np.int32)
    made = []
    for i in range(16):
        rng = np.random.default_rng(i)
        joined = name not in PAIRS
        pieces = pieces_of(objective, text[i * joined :][:most])
        made.append(make(pieces, rng, joined=joined, other=lambda rng: digits))
    batch = on_device(stack(made))
    params = nn.meta.unbox(objective.init(jax.random.key(0), batch))
    optimizer = optax.adam(5e-3)

    @jax.jit
    def run(params: Any) -> Any:
        def total(params: Any, key: Any) -> Any:
            terms = objective.loss(params, batch, key, train=True)
            losses = {k: t.sum / t.weight for k, t in terms.items() if t.coefficient}
            return sum(terms[k].coefficient * x for k, x in losses.items()), losses

        def step(carry: Any, number: Any) -> Any:
            params, state = carry
            key = jax.random.fold_in(jax.random.key(1), number)
            gradient, losses = jax.grad(total, has_aux=True)(params, key)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), losses

        return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(40))[1]

    for term, values in run(params).items():
        first, last = float(values[0]), float(values[-5:].mean())
        assert last < 0.8 * first, (term, first, last)
