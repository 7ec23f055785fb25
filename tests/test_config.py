"""Strict configs: what is accepted, and the words of every refusal."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest

from lm import config as configs
from lm.config import (
    AdamW,
    Config,
    Cosine,
    Duration,
    Learned,
    ModelConfig,
    Rotary,
    TextFiles,
    from_dict,
)
from lm.errors import ConfigError

MODEL = {
    "vocab_size": 65,
    "num_layers": 2,
    "d_model": 8,
    "num_heads": 2,
    "d_ff": 16,
    "position": {"kind": "learned", "max_length": 64},
}
VALID: dict[str, Any] = {
    "model": MODEL,
    "data": {
        "train": {"books": {"kind": "text", "paths": ["a.txt", "b/*.gz"]}},
        "validation": {"books": {"kind": "embedded"}},
        "tokenizer": {"kind": "byte"},
        "sequence_length": 8,
    },
    "train": {"batch_size": 4, "duration": {"steps": 10}},
    "evaluation": {"every": {"steps": 5}},
    "optimizer": {"kind": "adamw", "schedule": {"kind": "cosine", "warmup": {"tokens": 64}}},
}


def with_value(key: str, value: Any) -> dict[str, Any]:
    values = copy.deepcopy(VALID)
    *parents, last = key.split(".")
    place = values
    for name in parents:
        place = place.setdefault(name, {})
    place[last] = value
    return values


def test_unions_nested_values_and_defaults() -> None:
    config = from_dict(configs.Config, VALID)
    assert config.model.position == Learned(max_length=64)
    assert config.data.train["books"] == TextFiles(paths=("a.txt", "b/*.gz"))
    assert config.optimizer == AdamW(schedule=Cosine(warmup=Duration(tokens=64)))
    assert hash(config.model) == hash(from_dict(ModelConfig, MODEL))


def test_json_round_trip_is_exact() -> None:
    config = from_dict(configs.Config, VALID)
    stored = json.loads(json.dumps(configs.to_dict(config)))
    assert from_dict(configs.Config, stored) == config
    assert configs.fingerprint(stored) == configs.fingerprint(config)
    assert configs.fingerprint(with_value("seed", 1)) != configs.fingerprint(VALID)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("modle", {}, "config.modle: unknown key; did you mean 'model'?"),
        ("model.num_layer", 2, "config.model.num_layer: unknown key; did you mean 'num_layers'?"),
        ("optimizer.lr", 1, "config.optimizer.lr: unknown key for kind 'adamw'; known: beta1,"),
        ("optimizer.momentum", 0.9, "config.optimizer.momentum: unknown key"),
        ("optimizer.kind", "adamx", "config.optimizer.kind: no such kind 'adamx'; did you mean"),
        ("model.position.base", 1e4, "config.model.position.base: unknown key"),
        ("model.position", {"max_length": 3}, "expected a mapping with kind = one of"),
        ("model.vocab_size", "65", "config.model.vocab_size: expected a whole number, got '65'"),
        ("model.vocab_size", 65.5, "config.model.vocab_size: expected a whole number, got 65.5"),
        ("model.vocab_size", True, "config.model.vocab_size: expected a whole number, got True"),
        ("model.tie_embeddings", 1, "config.model.tie_embeddings: expected True or False, got 1"),
        ("model.activation", "gleu", "expected one of"),
        ("model.activation", "gleu", "did you mean 'gelu'?"),
        ("model.layer_pattern", "global", "config.model.layer_pattern: expected a list or tuple"),
        ("model.layer_pattern", ["globl"], "config.model.layer_pattern[0]: expected one of"),
        ("data.train.books.fraction", [0.1], "config.data.train.books.fraction: expected 2 values"),
        ("data.train.books.fraction", [0.9, 0.1], "0 <= begin < end <= 1"),
        ("train.duration", {"steps": 1, "epochs": 1}, "exactly one of steps, epochs, tokens"),
        ("train.duration", {}, "exactly one of steps, epochs, tokens; given: none"),
        ("train.microbatches", 3, "batch_size=4 is not divisible by microbatches=3"),
        ("model.num_heads", 3, "config.model: d_model=8 is not divisible by num_heads=3"),
        ("model.layer_pattern", ["local"], "so window (positions) must be set"),
        ("model.window", 4, "window=4 is used by no layer"),
        ("model.window", -3, "window must be at least 1, not -3"),
        ("model.num_kv_heads", 0, "num_kv_heads must be at least 1, not 0"),
        ("model.layer_pattern", [], "layer_pattern names no layer"),
        ("model.logit_softcap", 0.0, "logit_softcap must be above 0, not 0.0"),
        ("model.dropout", {"residual": 1.5}, "config.model.dropout: residual must be in [0, 1)"),
        ("model.norm", {"kind": "rms", "bias": True}, "RMSNorm has no bias"),
        ("model.norm.epsilon", -1.0, "config.model.norm: epsilon must be above 0"),
        ("model.position", {"kind": "rotary", "fraction": 2.0}, "fraction must be in (0, 1]"),
        ("model.position", {"kind": "t5_relative", "num_buckets": 1}, "num_buckets must be at"),
        ("model.position", {"kind": "t5_relative", "max_distance": 16}, "must be above num_buc"),
        ("objective", {"kind": "causal_lm", "label_smoothing": 2}, "label_smoothing must be in"),
        ("objective", {"kind": "causal_lm", "chunk_tokens": -5}, "chunk_tokens must be at least 0"),
        ("data.too_long", "cut", "data.too_long='cut' is for pairs of texts, which obj"),
        ("data.train.books.target_paths", ["c"], "line by line: set document=\"line\", not 'file'"),
        (
            "data.validation",
            {"b": {"kind": "embedded", "pairs": True}},
            "data.validation.b (kind 'embedded') has targets, which objective 'causal_lm' would no",
        ),
        ("objective", {"kind": "sequence_to_sequence", "target_length": 0}, "must be at least 1"),
        ("objective", {"kind": "sequence_to_sequence", "target_length": 5}, "an encoder-decoder's"),
        ("data.read_threads", -1, "config.data: read_threads must be at least 0, not -1"),
        ("data.train.books.weight", 0, "weight must be above 0, not 0.0"),
        ("data.train.books.weight", float("inf"), "expected a finite number, got inf"),
        ("data.validation", {}, "but data.validation names no source to evaluate on"),
        ("optimizer.learning_rate", -1, "learning_rate must be at least 0, not -1.0"),
        ("optimizer.clip_norm", -1, "clip_norm must be above 0, not -1.0"),
        ("optimizer.beta2", 1.5, "beta2 must be in [0, 1), not 1.5"),
        ("optimizer.schedule.final", -5, "final must be in [0, 1], a part of the peak, not -5"),
        ("optimizer.rules", [{"pattern": "("}], "pattern '(' is not a regular expression"),
        ("train.ema_decay", 1.5, "ema_decay must be in [0, 1), not 1.5"),
        ("train.duration", {"epochs": float("inf")}, "expected a finite number"),
        ("evaluation.batches", 0, "batches must be at least 1, not 0"),
        ("checkpoint.keep_last", 0, "keep_last must be at least 1, not 0"),
        ("seed", -1, "seed must be in [0, 2^32), not -1"),
    ],
)
def test_refusals(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        from_dict(configs.Config, with_value(key, value))


def test_a_required_key_is_named() -> None:
    values = copy.deepcopy(VALID)
    del values["model"]["d_ff"]
    with pytest.raises(ConfigError, match=r"config\.model\.d_ff: required, and not given"):
        from_dict(configs.Config, values)


def test_rotary_needs_pairs() -> None:
    model = {**MODEL, "position": {"kind": "rotary", "fraction": 0.25}}
    with pytest.raises(ConfigError, match="must be an even whole number"):
        from_dict(ModelConfig, model)
    assert from_dict(ModelConfig, {**MODEL, "position": {"kind": "rotary"}}).position == Rotary()


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("optimizer.learning_rate", "3e-4", 3e-4),
        ("train.duration.steps", "1e4", 10_000),
        ("train.ema_decay", "None", None),
        ("train.ema_decay", "0.99", 0.99),
        ("model.activation", "swiglu", "swiglu"),
        ("model.tie_embeddings", "false", False),
        ("data.train.books.paths", "('x', 'y')", ("x", "y")),
        ("checkpoint.every.epochs", "0.5", 0.5),
        ("objective.kind", "causal_lm", "causal_lm"),
    ],
)
def test_overrides(key: str, text: str, expected: Any) -> None:
    values = copy.deepcopy(VALID)
    configs.apply_override(values, key, text)
    value: Any = from_dict(configs.Config, values)
    for name in key.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    assert value == expected
    assert type(value) is type(expected)


def test_an_override_below_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size is a value"):
        configs.apply_override(copy.deepcopy(VALID), "train.batch_size.rows", "3")


def test_differences_name_the_leaves() -> None:
    old = configs.to_dict(from_dict(configs.Config, VALID))
    new = configs.to_dict(from_dict(configs.Config, with_value("model.d_ff", 32)))
    assert configs.differences(old, new) == [("model.d_ff", 16, 32)]
    assert configs.differences(old, old) == []


def test_durations_in_steps() -> None:
    lengths = {"tokens_per_step": 100, "steps_per_epoch": 2.5}
    assert Duration(steps=7).in_steps(**lengths) == 7
    assert Duration(tokens=201).in_steps(**lengths) == 3
    assert Duration(epochs=2).in_steps(**lengths) == 5
    assert Duration(epochs=3).in_steps(**lengths) == 8


def test_architectures_that_cannot_be_meant() -> None:
    def model(**fields: Any) -> None:
        values = dict(vocab_size=13, num_layers=2, d_model=16, num_heads=4, d_ff=24)
        from_dict(ModelConfig, {**values, "position": {"kind": "none"}, **fields})

    xlnet = dict(
        architecture="two_stream",
        position={"kind": "xlnet_relative"},
        norm={"placement": "post"},
        attention_bias=False,
        attention_output_bias=False,
    )
    model(**xlnet)
    t5 = {"kind": "t5_relative", "num_buckets": 2, "max_distance": 16}
    wrong: dict[str, dict[str, Any]] = {
        "needs decoder_start_id": dict(architecture="encoder_decoder"),
        r"decoder_start_id=13 is not in a vocabulary of 13": dict(
            architecture="encoder_decoder", decoder_start_id=13
        ),
        "num_decoder_layers is for": dict(num_decoder_layers=2),
        "go together": dict(architecture="two_stream"),
        r"needs scan_layers=False, not True": {**xlnet, "scan_layers": True},
        r"needs scale_embeddings=False": {**xlnet, "scale_embeddings": True},
        r'has norm\.placement="post"': {**xlnet, "norm": {"placement": "pre"}},
        r"d_model=15 must be even": {**xlnet, "d_model": 15, "num_heads": 3},
        r"num_buckets=2 must be at least 4 in an encoder": dict(
            architecture="encoder", position=t5
        ),
        "heads names a kind twice": dict(
            heads=[{"kind": "span", "num_labels": 2}, {"kind": "span", "num_labels": 2}]
        ),
        "pooler must be set": dict(heads=[{"kind": "classification", "num_labels": 2}]),
        "a span head has num_labels=2, not 3": dict(heads=[{"kind": "span", "num_labels": 3}]),
        "embedding_size=8 is not d_model=16": dict(embedding_size=8),
        'lm_head_bias is set, but lm_head="none"': dict(lm_head="none", lm_head_bias=True),
        'logit_scale is set, but lm_head="none"': dict(lm_head="none", logit_scale=2.0),
        "without tied embeddings it needs": dict(
            tie_embeddings=False, lm_head_bias=True, logit_scale=2.0
        ),
        "without dense there is no activation": dict(pooler={"dense": False}),
    }
    for message, fields in wrong.items():
        with pytest.raises(ConfigError, match=message):
            model(**fields)


def test_an_objective_says_what_it_can_train() -> None:
    data = {"train": {"e": {"kind": "embedded"}}, "tokenizer": {"kind": "byte"}}
    values: dict[str, Any] = dict(
        model=dict(
            vocab_size=13, num_layers=1, d_model=8, num_heads=2, d_ff=8, position={"kind": "none"}
        ),
        data={**data, "sequence_length": 8},
        train={"batch_size": 2, "duration": {"steps": 1}},
    )
    values["model"]["architecture"] = "encoder"
    with pytest.raises(
        ConfigError, match=r"'causal_lm' trains decoder, and model\.architecture is"
    ):
        from_dict(Config, values)
    from_dict(Config, {**values, "objective": None})
    values["model"].update(architecture="decoder", lm_head="none")
    with pytest.raises(ConfigError, match="needs a language-model head"):
        from_dict(Config, values)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"kind": "masked_lm", "rate": 0.0}, "rate must be in (0, 1], not 0.0"),
        ({"kind": "masked_lm", "rate": 1.5}, "rate must be in (0, 1], not 1.5"),
        ({"kind": "masked_lm", "mask_share": -0.1}, "mask_share must be in [0, 1], not -0.1"),
        ({"kind": "masked_lm", "random_share": 0.3}, "random_share=0.3 are more than all"),
        ({"kind": "masked_lm", "max_predictions": 0}, "max_predictions must be at least 1, not 0"),
        ({"kind": "masked_lm", "chinese_words": True}, "chinese_words needs selection="),
        ({"kind": "masked_lm", "selection": "span"}, "did you mean 'spans'?"),
        (
            {"kind": "masked_lm", "pairs": "sentence_order", "wrap": True},
            "wrap is for rows without",
        ),
        ({"kind": "masked_lm", "pairs": "next_sentence"}, "needs a head of kind 'next_sentence'"),
        ({"kind": "replaced_tokens"}, "needs a generator"),
        ({"kind": "denoising", "mean_length": 0.5}, "mean_length must be at least 1"),
        ({"kind": "span_corruption", "density": 1.0}, "density must be in (0, 1), not 1.0"),
        ({"kind": "span_corruption", "mean_length": 0.5}, "mean_length must be at least 1"),
        ({"kind": "denoising", "infill": 1.0}, "infill must be in [0, 1), not 1.0"),
        ({"kind": "prefix_lm", "label_smoothing": 1.0}, "label_smoothing must be in [0, 1)"),
        ({"kind": "permutation_lm", "num_predict": 0}, "num_predict must be at least 1, not 0"),
        ({"kind": "permutation_lm", "reuse_length": -1}, "reuse_length must be at least 0"),
    ],
)
def test_objectives_that_are_refused(objective: dict[str, Any], message: str) -> None:
    values = with_value("objective", objective)
    values["model"].update(architecture="encoder")
    with pytest.raises(ConfigError, match=re.escape(message)):
        from_dict(Config, values)


def test_all_chosen_tokens_may_become_the_mask() -> None:
    values = with_value("objective", {"kind": "masked_lm", "mask_share": 1, "random_share": 0})
    values["model"].update(architecture="encoder")
    found = from_dict(Config, values).objective
    assert isinstance(found, configs.MaskedLM) and found.mask_share == 1
    for shares in ((0.9, 0.1), (0.7, 0.3), (0.0, 1.0), (1 / 3, 2 / 3)):
        configs.MaskedLM(rate=1.0, mask_share=shares[0], random_share=shares[1])


def test_replaced_tokens_need_models_that_fit() -> None:
    encoder = {**MODEL, "architecture": "encoder"}
    detector = {
        **encoder,
        "lm_head": "none",
        "heads": [{"kind": "replaced_token", "num_labels": 1}],
    }

    def config(model: Any, generator: Any, **more: Any) -> None:
        values = with_value(
            "objective", {"kind": "replaced_tokens", "generator": generator, **more}
        )
        from_dict(Config, {**values, "model": model})

    config(detector, encoder)
    small = {**encoder, "d_model": 4}
    config(detector, small, share_embeddings=False)
    config(detector, {**small, "lm_head": "transform", "embedding_size": 8})
    config(encoder, encoder, task="original")
    none = {"kind": "none"}
    for message, model, generator, more in [
        ("needs a head of kind 'replaced_token'", encoder, encoder, {}),
        ('needs a language-model head: model.lm_head is "none"', detector, encoder,
         {"task": "all_originals"}),
        ("must be an encoder with a language-model head", detector, MODEL, {}),
        ("must be an encoder with a language-model head", detector, detector, {}),
        ("generator.vocab_size=64 is not the model's 65", detector,
         {**encoder, "vocab_size": 64}, {}),
        ("the generator's width_of_embedding is 4, the model's 8", detector, small, {}),
        ("the generator's position is", detector, {**encoder, "position": none}, {}),
        ("the generator's token_types is 2, the model's 0", detector,
         {**encoder, "token_types": 2}, {}),
        ("temperature must be above 0", detector, encoder, {"temperature": 0.0}),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=re.escape(message)):
            config(model, generator, **more)


def test_pairs_need_token_types() -> None:
    model = {
        **MODEL,
        "architecture": "encoder",
        "pooler": {},
        "heads": [{"kind": "next_sentence", "num_labels": 2}],
    }
    values = with_value("objective", {"kind": "masked_lm", "pairs": "next_sentence"})
    values["data"] |= {"packing": "none"}
    with pytest.raises(ConfigError, match=r"needs model\.token_types=2"):
        from_dict(Config, {**values, "model": model})
    from_dict(Config, {**values, "model": {**model, "token_types": 2}})


SEVERAL = "takes a row for one text, and data puts several"


@pytest.mark.parametrize(
    ("objective", "data", "message"),
    [
        ({"kind": "masked_lm"}, {"packing": "first_fit"}, None),
        ({"kind": "masked_lm", "wrap": True}, {}, None),
        ({"kind": "masked_lm", "wrap": True}, {"segments": True}, SEVERAL),
        ({"kind": "masked_lm", "wrap": True}, {"packing": "first_fit"}, SEVERAL),
        ({"kind": "masked_lm", "pairs": "sentence_order"}, {"packing": "none"}, None),
        ({"kind": "masked_lm", "pairs": "sentence_order"}, {}, "takes a row for a document: set"),
    ],
)
def test_what_a_row_may_hold(
    objective: dict[str, Any], data: dict[str, Any], message: str | None
) -> None:
    values = with_value("objective", objective)
    heads = [{"kind": "next_sentence", "num_labels": 2}]
    values["model"] |= {
        "architecture": "encoder", "pooler": {}, "heads": heads, "token_types": 2
    }  # fmt: skip
    values["data"] |= data
    if message is None:
        from_dict(Config, values)
        return
    with pytest.raises(ConfigError, match=message):
        from_dict(Config, values)


PAIRED = {"kind": "tsv", "paths": ["a.tsv"], "target_column": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, None),
        ({"train": {"b": {**PAIRED, "target_column": None}}}, "data.train.b (kind 'tsv') has no t"),
        ({"validation": {"b": {"kind": "embedded"}}}, "data.validation.b (kind 'embedded') has no"),
        ({"packing": "stream"}, "takes a row for a pair: set data.packing='none', not 'stream'"),
        ({"add_eos": False}, "needs data.add_eos=True: a target without an end"),
    ],
)
def test_pairs_of_texts_and_what_takes_them(data: dict[str, Any], message: str | None) -> None:
    values = with_value("objective", {"kind": "sequence_to_sequence"})
    sources = {"train": {"a": PAIRED}, "validation": {"a": PAIRED}}
    values["data"] |= {**sources, "packing": "none", "too_long": "cut", **data}
    if message is None:
        objective = from_dict(configs.Config, values).objective
        assert objective is not None and objective.takes_pairs
        return
    with pytest.raises(ConfigError, match=re.escape(message)):
        from_dict(configs.Config, values)


def test_a_translation_needs_token_types_and_no_head() -> None:
    objective = {"kind": "masked_lm", "pairs": "translation"}
    values = with_value("objective", objective)
    values["data"] |= {"train": {"a": PAIRED}, "validation": {"a": PAIRED}, "packing": "none"}
    values["model"] |= {"architecture": "encoder", "token_types": 2}
    from_dict(configs.Config, values)
    del values["model"]["token_types"]
    with pytest.raises(ConfigError, match="'translation' needs model.token_types=2"):
        from_dict(configs.Config, values)
