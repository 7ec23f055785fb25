"""BERT, RoBERTa, ELECTRA, XLNet, T5, BART and kin: configs there and back, every tensor's name."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lm.config import (
    ALiBi,
    DropoutConfig,
    HeadConfig,
    InitConfig,
    Learned,
    ModelConfig,
    NormConfig,
    PoolerConfig,
    Sinusoidal,
    T5Relative,
    XLNetRelative,
    from_dict,
)
from lm.convert.families import family_of_folder, family_of_model
from lm.convert.families.common import canonical
from lm.convert.layout import Plan
from lm.errors import ConfigError, UserError
from lm.model import build_model
from tests.convert.encoder_checkpoints import CLASSES, PUBLISHED, THREE, published, small, tensors


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{key}/")
        else:
            yield f"{path}{key}", value


def shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    tokens = jnp.zeros((1, 2), jnp.int32)
    source = {"source": tokens} if model.architecture == "encoder_decoder" else {}
    variables = jax.eval_shape(lambda: build_model(model).init(jax.random.key(0), tokens, **source))
    return {path: leaf.shape for path, leaf in leaves(nn.meta.unbox(variables)["params"])}


def reference_shapes(plan: Plan, here: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    return {
        rule.reference: rule.layout.reference_shape([here[name] for name in rule.parameters])
        for rule in plan.rules
    }


def read(values: Mapping[str, Any], names: Any = ()) -> ModelConfig:
    return family_of_folder(values).read_config(values, names)


def without(values: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != key}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_have_the_published_number_of_parameters(name: str) -> None:
    values, count = PUBLISHED[name]
    model = read(values)
    plan = family_of_folder(values).plan(model, None)
    # Every layer has the shapes of the first one.
    decoder_layers = 1 if model.architecture == "encoder_decoder" else None
    first = shapes(replace(model, num_layers=1, num_decoder_layers=decoder_layers))
    paths = {path for rule in plan.rules for path in rule.parameters}
    there = reference_shapes(
        plan, {path: first[re.sub(r"layer_\d+", "layer_0", path)] for path in paths}
    )
    assert sum(math.prod(shape) for shape in there.values()) == count


@pytest.mark.parametrize("name", [*PUBLISHED, *CLASSES])
def test_a_config_survives_being_written(name: str) -> None:
    values = CLASSES[name][0] if name in CLASSES else PUBLISHED[name][0]
    model = read(values)
    family = family_of_model(model, family_of_folder(values).name)
    written = family.write_config(model)
    assert read(written) == model
    assert read(written, [rule.reference for rule in family.plan(model, None).rules]) == model
    assert model == canonical(model)
    assert written["model_type"] == values["model_type"]
    assert written["architectures"] == values["architectures"]


@pytest.mark.parametrize("name", CLASSES)
def test_the_tensors_are_those_of_the_reference(name: str) -> None:
    """Read from the class's name or from the tensors, written or read: always the same ones."""
    values, family = CLASSES[name][0], family_of_folder(CLASSES[name][0])
    model, wanted = read(values), tensors(name)
    assert read(values, list(wanted)) == model
    here = shapes(model)
    for plan in (family.plan(model, None), family.plan(model, list(wanted))):
        assert reference_shapes(plan, here) == wanted
        assert len(plan.rules) == len(wanted)
        # Every parameter once.
        assert sorted(path for rule in plan.rules for path in rule.parameters) == sorted(here)
        # A duplicate is no rule's tensor, and equals one that is; an ignored name is nobody's.
        assert not set(plan.duplicates) & set(wanted)
        assert set(plan.duplicates.values()) <= set(wanted)
        for pattern in plan.ignored:
            assert not any(re.fullmatch(pattern, tensor) for tensor in wanted)


@pytest.mark.parametrize("name", CLASSES)
def test_arrays_survive_there_and_back(name: str) -> None:
    values = CLASSES[name][0]
    model = read(values)
    here = shapes(model)
    rng = np.random.default_rng(0)
    for rule in family_of_folder(values).plan(model, None).rules:
        arrays = [rng.normal(size=here[path]).astype(np.float32) for path in rule.parameters]
        back = rule.layout.to_lm(rule.layout.to_reference(arrays))
        for array, other in zip(arrays, back, strict=True):
            np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize("name", CLASSES)
def test_the_prefix_may_be_there_or_not(name: str) -> None:
    values, prefix, _ = CLASSES[name]
    model, wanted = read(values), tensors(name)
    usual = {"bert": "bert.", "roberta": "roberta.", "electra": "electra."}
    usual |= {"xlnet": "transformer.", "t5": ""}
    longer = prefix or usual.get(values["model_type"], "model.")
    for other in ("", longer):
        names = {
            re.sub("^" + re.escape(prefix), other, name) if prefix else name for name in wanted
        }
        plan = family_of_folder(values).plan(model, names)
        assert {rule.reference for rule in plan.rules} == names


@pytest.mark.parametrize(
    ("name", "tensor", "parameter"),
    [
        ("BertModel", "encoder.layer.0.attention.output.LayerNorm.bias", "attention_norm/bias"),
        ("BertModel", "encoder.layer.0.output.LayerNorm.bias", "mlp_norm/bias"),
        ("BertModel", "encoder.layer.0.attention.self.key.weight", "attention/key/kernel"),
        ("XLNetModel", "layer.0.rel_attn.r_w_bias", "attention/content_bias/bias"),
        ("XLNetModel", "layer.0.rel_attn.r_r_bias", "attention/position_bias/bias"),
        ("XLNetModel", "layer.0.rel_attn.r_s_bias", "attention/segment_bias/bias"),
        ("XLNetModel", "layer.0.rel_attn.r", "attention/relative/kernel"),
        ("XLNetModel", "layer.0.ff.layer_norm.weight", "mlp_norm/scale"),
        (
            "T5ForConditionalGeneration v1.1",
            "encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
            "mlp/gate/kernel",
        ),
        (
            "T5Model",
            "decoder.block.0.layer.1.layer_norm.weight",
            "cross_attention_norm/scale",
        ),
        ("BartModel", "decoder.layers.0.encoder_attn.v_proj.bias", "cross_attention/value/bias"),
        ("BartModel", "encoder.layers.0.final_layer_norm.bias", "mlp_norm/bias"),
        ("M2M100Model", "encoder.layers.0.self_attn_layer_norm.bias", "attention_norm/bias"),
    ],
)
def test_tensors_of_one_shape_are_told_apart(name: str, tensor: str, parameter: str) -> None:
    """What shapes would not show; the rest of it is shown by parity with the reference."""
    values = CLASSES[name][0]
    rules = family_of_folder(values).plan(read(values), None).rules
    (rule,) = [rule for rule in rules if rule.reference == tensor]
    (path,) = rule.parameters
    stack = tensor.split(".")[0] + "/" if read(values).architecture == "encoder_decoder" else ""
    assert path == f"{stack}layer_0/{parameter}"


def test_what_bert_says_arrives() -> None:
    model = read(
        small(
            "bert-base-uncased",
            "BertForTokenClassification",
            hidden_act="gelu_new",
            layer_norm_eps=1e-6,
            type_vocab_size=3,
            hidden_dropout_prob=0.2,
            attention_probs_dropout_prob=0.3,
            classifier_dropout=0.4,
            initializer_range=0.01,
            num_labels=5,
        )
    )
    assert model == ModelConfig(
        architecture="encoder",
        vocab_size=13,
        num_layers=1,
        d_model=8,
        num_heads=2,
        d_ff=12,
        position=Learned(16),
        token_types=3,
        embedding_norm=True,
        norm=NormConfig(placement="post", epsilon=1e-6),
        activation="gelu_tanh",
        lm_head="none",
        heads=(HeadConfig("token_classification", 5),),
        dropout=DropoutConfig(embedding=0.2, attention=0.3, residual=0.2, head=0.4),
        init=InitConfig(0.01, scale_residual=False),
    )


def test_what_marian_says_arrives() -> None:
    model = read(
        small(
            "opus-mt-en-de",
            attention_dropout=0.2,
            activation_dropout=0.3,
            decoder_layers=3,
            decoder_vocab_size=11,
            share_encoder_decoder_embeddings=False,
            tie_word_embeddings=False,
        )
    )
    assert model == ModelConfig(
        architecture="encoder_decoder",
        vocab_size=11,
        source_vocab_size=13,
        num_layers=1,
        num_decoder_layers=3,
        d_model=8,
        num_heads=2,
        d_ff=12,
        position=Sinusoidal(layout="halves"),
        decoder_start_id=1,
        norm=NormConfig(placement="post"),
        activation="silu",
        scale_embeddings=True,
        tie_embeddings=False,
        lm_head_bias=True,
        dropout=DropoutConfig(embedding=0.1, attention=0.2, residual=0.1, feed_forward=0.3),
        init=InitConfig(scale_residual=False),
    )
    plan = family_of_model(model).plan(model, None)
    assert reference_shapes(plan, shapes(model))["lm_head.weight"] == (11, 8)
    assert not plan.duplicates


def test_dropout_before_the_heads_that_have_it() -> None:
    def rate(name: str, kind: str, **changes: Any) -> float:
        return read(small(name, kind, **changes)).dropout.head

    assert rate("bert-base-uncased", "BertForSequenceClassification") == 0.1
    assert rate("bert-base-uncased", "BertForQuestionAnswering") == 0
    assert rate("bert-base-uncased", "BertForPreTraining") == 0
    assert rate("roberta-base", "RobertaForMultipleChoice", hidden_dropout_prob=0.3) == 0.3
    assert rate("electra-small-discriminator", "ElectraForPreTraining") == 0
    summary = {"summary_last_dropout": 0.4}
    assert rate("electra-small-discriminator", "ElectraForMultipleChoice", **summary) == 0.4
    assert rate("xlnet-base-cased", "XLNetForSequenceClassification", **summary) == 0.4
    assert rate("xlnet-base-cased", "XLNetForTokenClassification", **summary) == 0
    assert rate("bart-large", "BartForSequenceClassification", classifier_dropout=0.4) == 0.4


def test_relatives_of_roberta() -> None:
    """The position after the padding token's id comes first; the rows before have no position."""
    for kind, stem in {"xlm-roberta": "XLMRoberta", "camembert": "Camembert"}.items():
        values = small("roberta-base", f"{stem}ForMaskedLM", model_type=kind)
        assert read(values) == read(small("roberta-base"))
    assert read(small("roberta-base")).position == Learned(14, offset=2)
    assert read(small("roberta-base", pad_token_id=3)).position == Learned(12, offset=4)
    assert read(small("m2m100_418M", pad_token_id=3)).position == Sinusoidal(
        layout="tensor2tensor", offset=4
    )


@pytest.mark.parametrize("name", ["BertForPreTraining", "BertForSequenceClassification"])
def test_norms_under_their_first_names(name: str) -> None:
    values = CLASSES[name][0]
    now = tensors(name)
    old = {
        tensor.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): shape
        for tensor, shape in now.items()
    }
    model = read(values, list(old))
    assert old != now and model == read(values, list(now))
    family = family_of_folder(values)
    assert reference_shapes(family.plan(model, list(old)), shapes(model)) == old
    assert reference_shapes(family.plan(model, None), shapes(model)) == now


def test_the_tensors_tell_the_heads() -> None:
    bert = small("bert-base-uncased", "BertForMaskedLM")
    everything = tensors("BertForPreTraining")
    # Published as BertForMaskedLM, with all that was pre-trained.
    model = read(bert, everything)
    assert model == read(small("bert-base-uncased"))
    assert read(without(bert, "architectures"), everything) == model
    # A pooler that the class has no use for stays.
    tokens = small("bert-base-uncased", "BertForTokenClassification", **THREE)
    extra = [*tensors("BertForTokenClassification"), "bert.pooler.dense.weight"]
    assert read(tokens, extra).pooler == PoolerConfig("first", dense=True, activation="tanh")
    # What the class should have is missed by its name.
    lacking = read(tokens, tensors("BertForMaskedLM"))
    plan = family_of_folder(tokens).plan(lacking, tensors("BertForMaskedLM"))
    assert "classifier.weight" in {rule.reference for rule in plan.rules}
    with pytest.raises(UserError, match="classifier.weight.*BertForTokenClassification"):
        read(without(tokens, "architectures"), tensors("BertForTokenClassification"))


def test_a_pooler_beside_a_classifier_of_its_own_is_ignored() -> None:
    values = small("roberta-base", "RobertaForSequenceClassification")
    names = [*tensors("RobertaForSequenceClassification"), "roberta.pooler.dense.weight"]
    model = read(values, names)
    plan = family_of_folder(values).plan(model, names)
    assert any(re.fullmatch(p, "roberta.pooler.dense.weight") for p in plan.ignored)
    assert "classifier.dense.weight" in {rule.reference for rule in plan.rules}


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("BertForMaskedLM", "bert.embeddings.position_ids"),
        ("ElectraModel", "embeddings.position_ids"),
        ("T5Model", "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"),
        ("M2M100ForConditionalGeneration", "model.encoder.embed_positions.weights"),
        ("MarianMTModel", "model.decoder.embed_positions.weight"),
        ("BartForConditionalGeneration", "model.encoder.version"),
    ],
)
def test_what_was_not_learned_is_ignored(name: str, pattern: str) -> None:
    values = CLASSES[name][0]
    plan = family_of_folder(values).plan(read(values), [*tensors(name), pattern])
    assert any(re.fullmatch(ignored, pattern) for ignored in plan.ignored)


def test_bart_learns_its_positions() -> None:
    values = CLASSES["BartModel"][0]
    plan = family_of_folder(values).plan(read(values), None)
    assert not any(re.fullmatch(p, "encoder.embed_positions.weight") for p in plan.ignored)


@pytest.mark.parametrize(
    ("name", "copies"),
    [
        ("BertForMaskedLM", ["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"]),
        ("RobertaForMaskedLM", ["lm_head.decoder.weight", "lm_head.decoder.bias"]),
        ("ElectraForMaskedLM", ["generator_lm_head.weight"]),
        ("XLNetLMHeadModel", ["lm_loss.weight"]),
        (
            "T5ForConditionalGeneration",
            ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"],
        ),
        ("T5ForConditionalGeneration v1.1", ["encoder.embed_tokens.weight"]),
        (
            "BartForConditionalGeneration",
            ["model.encoder.embed_tokens.weight", "lm_head.weight"],
        ),
        ("MarianMTModel of two vocabularies", ["lm_head.weight"]),
    ],
)
def test_tied_tensors_may_be_there_twice(name: str, copies: list[str]) -> None:
    values = CLASSES[name][0]
    family, wanted = family_of_folder(values), tensors(name)
    model = read(values, [*wanted, *copies])
    assert model == read(values)
    plan = family.plan(model, [*wanted, *copies])
    assert {rule.reference for rule in plan.rules} == set(wanted)
    assert set(copies) <= set(plan.duplicates)
    # Or only under the other name.
    for copy in copies:
        original = plan.duplicates[copy]
        names = [copy if tensor == original else tensor for tensor in wanted]
        swapped = family.plan(read(values, names), names)
        if copy.endswith(("embed_tokens.weight", "bias")):
            assert copy in {rule.reference for rule in swapped.rules}
            assert swapped.duplicates[original] == copy


@pytest.mark.parametrize(
    ("name", "own", "tied"),
    [
        ("BertForMaskedLM", "cls.predictions.decoder", "cls.predictions.bias"),
        ("RobertaForMaskedLM", "lm_head.decoder", "lm_head.bias"),
    ],
)
def test_the_bias_of_an_untied_head(name: str, own: str, tied: str) -> None:
    """The reference reads the decoder's own; files of versions before have the other alone."""
    values = {**CLASSES[name][0], "tie_word_embeddings": False}
    family, model = family_of_folder(values), read(values)
    new = [*tensors(name), f"{own}.weight", f"{own}.bias"]
    for names, chosen in ((None, f"{own}.bias"), (new, f"{own}.bias"), (new[:-1], tied)):
        plan = family.plan(model, names)
        there = {path: rule.reference for rule in plan.rules for path in rule.parameters}
        assert there["lm_head/kernel"] == f"{own}.weight"
        assert there["lm_head/bias"] == chosen
        assert any(re.fullmatch(p, tied) for p in plan.ignored) == (chosen != tied)
        assert sorted(there) == sorted(shapes(model))


@pytest.mark.parametrize(
    ("keys", "there", "tied", "scaled"),
    [
        # transformers 4: one key means both.
        ({}, False, True, True),
        ({}, True, True, True),
        ({"tie_word_embeddings": False}, True, False, False),
        ({"tie_word_embeddings": False}, False, True, False),
        # transformers 5 always says tied, and means it unless there are two tables.
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, True, False, False),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False, True, False),
        ({"model_type": "mt5"}, True, False, False),
    ],
)
def test_t5_scales_or_has_two_tables(
    keys: dict[str, Any], there: bool, tied: bool, scaled: bool
) -> None:
    values = {**small("t5-small"), **keys}
    names = [*tensors("T5ForConditionalGeneration"), *(["lm_head.weight"] if there else [])]
    model = read(values, names)
    assert (model.tie_embeddings, model.logit_scale) == (tied, 8**-0.5 if scaled else None)
    family = family_of_model(model)
    back = family.write_config(model)
    assert read(back, [rule.reference for rule in family.plan(model, None).rules]) == model


def test_the_bias_of_the_logits_may_be_missing() -> None:
    values = CLASSES["MarianMTModel"][0]
    names = [name for name in tensors("MarianMTModel") if name != "final_logits_bias"]
    model = read(values, names)
    assert read(values).lm_head_bias and not model.lm_head_bias
    plan = family_of_model(model).plan(model, None)
    assert {rule.reference for rule in plan.rules} == set(names)


def test_summaries_of_xlnet() -> None:
    def pooler(**changes: Any) -> PoolerConfig | None:
        values = small("xlnet-base-cased", "XLNetForSequenceClassification", **changes)
        model = read(values)
        assert read(family_of_model(model).write_config(model)) == model
        return model.pooler

    assert pooler() == PoolerConfig("last", dense=True, activation="tanh")
    assert pooler(summary_type="first", summary_activation="") == PoolerConfig(
        "first", dense=True, activation="none"
    )
    assert pooler(summary_type="mean", summary_use_proj=False, summary_activation="") == (
        PoolerConfig("mean", dense=False, activation="none")
    )
    assert read(small("xlnet-base-cased", clamp_len=5)).position == XLNetRelative(5)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("bert-base-uncased", {"is_decoder": True}, "is_decoder=True"),
        ("bert-base-uncased", {"add_cross_attention": True}, "add_cross_attention=True"),
        (
            "bert-base-uncased",
            {"position_embedding_type": "relative_key"},
            "position_embedding_type='relative_key'.*'absolute'",
        ),
        ("bert-base-uncased", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ("bert-base-uncased", {"hidden_act": "mish"}, "hidden_act='mish'.*gelu_new"),
        ("bert-base-uncased", {"hidden_size": None}, "no hidden_size"),
        ("bert-base-uncased", {"num_attention_heads": 7}, "num_heads=7"),
        (
            "bert-base-uncased",
            {"architectures": ["BertLMHeadModel"]},
            "'BertLMHeadModel'.*BertForMaskedLM",
        ),
        (
            "bert-base-uncased",
            {
                "architectures": ["BertForSequenceClassification"],
                "problem_type": "ranking",
            },
            "problem_type='ranking'",
        ),
        ("roberta-base", {"max_position_embeddings": 2}, "max_position_embeddings=2.*pad_token_id"),
        ("roberta-base", {"hidden_act": "relu"}, "hidden_act='relu'.*language-model head"),
        ("electra-base-generator", {"hidden_act": "relu"}, "hidden_act='relu'.*generator"),
        (
            "electra-small-discriminator",
            {"architectures": ["ElectraForMultipleChoice"], "summary_type": "last"},
            "summary_type='last'.*'first'",
        ),
        ("xlnet-base-cased", {"attn_type": "uni"}, "attn_type='uni'.*'bi'"),
        ("xlnet-base-cased", {"bi_data": True}, "bi_data=True"),
        ("xlnet-base-cased", {"same_length": True}, "same_length=True"),
        ("xlnet-base-cased", {"d_head": 32}, "d_head=32"),
        (
            "xlnet-base-cased",
            {"architectures": ["XLNetForQuestionAnswering"]},
            "'XLNetForQuestionAnswering'.*XLNetForQuestionAnsweringSimple",
        ),
        (
            "xlnet-base-cased",
            {"architectures": ["XLNetForMultipleChoice"], "summary_type": "attn"},
            "summary_type='attn'.*last",
        ),
        (
            "xlnet-base-cased",
            {"architectures": ["XLNetForMultipleChoice"], "summary_use_proj": False},
            "summary_activation='tanh' with summary_use_proj=False",
        ),
        ("t5-small", {"feed_forward_proj": "gated-relu"}, "feed_forward_proj='gated-relu'"),
        ("t5-small", {"architectures": ["T5ForQuestionAnswering"]}, "'T5ForQuestionAnswering'"),
        ("t5-small", {"is_decoder": True}, "is_decoder=True"),
        (
            "bart-large",
            {"decoder_ffn_dim": 2048},
            "encoder_ffn_dim=4096 and decoder_ffn_dim=2048",
        ),
        (
            "m2m100_418M",
            {"encoder_attention_heads": 8},
            "encoder_attention_heads=8 and decoder_attention_heads=16",
        ),
        ("bart-large", {"tie_word_embeddings": False}, "tie_word_embeddings=false"),
        ("bart-large", {"architectures": ["BartForQuestionAnswering"]}, "BartForConditional"),
        ("opus-mt-en-de", {"decoder_start_token_id": 58101}, "decoder_start_id=58101"),
    ],
)
def test_what_is_not_supported_is_named(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(published(name, **changes))


@pytest.mark.parametrize(
    ("name", "family", "changes", "message"),
    [
        ("BertModel", "bert", {"position": ALiBi()}, "position.kind='alibi'.*'learned'"),
        ("BertModel", "bert", {"position": Learned(16, 2)}, "position.offset=2"),
        ("BertModel", "bert", {"norm": NormConfig()}, "norm.placement='pre'"),
        ("BertModel", "bert", {"token_types": 0}, "token_types=0"),
        ("BertModel", "bert", {"embedding_size": 4}, "embedding_size=4"),
        ("BertModel", "bert", {"activation": "swiglu"}, "activation='swiglu'"),
        ("BertModel", "bert", {"attention_bias": False}, "attention_bias=False"),
        ("BertForMaskedLM", "bert", {"lm_head": "linear"}, "lm_head='linear'"),
        ("BertForMaskedLM", "bert", {"lm_head_bias": False}, "lm_head_bias=False"),
        (
            "BertForMaskedLM",
            "bert",
            {"heads": (HeadConfig("span", 2),)},
            "span head beside lm_head='transform'",
        ),
        (
            "BertForQuestionAnswering",
            "bert",
            {"heads": (HeadConfig("span", 2), HeadConfig("token_classification", 3))},
            "span, token_classification.*one at a time",
        ),
        (
            "BertForSequenceClassification",
            "bert",
            {"pooler": PoolerConfig("mean", dense=False, activation="none")},
            "pooler.token='mean'",
        ),
        ("BertModel", "bert", {"heads": (HeadConfig("replaced_token", 1),)}, "replaced_token"),
        ("BertModel", "roberta", {}, "position.offset=0"),
        ("RobertaForMaskedLM", "roberta", {"activation": "relu"}, "hidden_act='relu'"),
        (
            "ElectraForPreTraining",
            "electra",
            {"heads": (HeadConfig("replaced_token", 1),)},
            "heads",
        ),
        ("ElectraModel", "xlnet", {}, "position.kind='learned'.*'xlnet_relative'"),
        ("XLNetLMHeadModel", "xlnet", {"lm_head_bias": False}, "lm_head_bias=False"),
        ("XLNetModel", "xlnet", {"token_types": 1}, "token_types=1"),
        ("XLNetModel", "xlnet", {"head_dim": 3}, "d_head=3"),
        ("T5Model", "t5", {"position": Learned(3)}, "position.kind='learned'.*'t5_relative'"),
        ("T5Model", "t5", {"attention_scale": None}, "attention_scale=None"),
        ("T5ForConditionalGeneration", "t5", {"tie_embeddings": False}, "tie_embeddings=False"),
        ("T5ForConditionalGeneration", "t5", {"logit_scale": 0.5}, "logit_scale=0.5"),
        ("T5ForConditionalGeneration", "t5", {"lm_head_bias": True}, "lm_head_bias=True"),
        ("T5Model", "bart", {}, "position.kind='t5_relative'.*'learned', 'sinusoidal'"),
        ("BertModel", "bart", {}, "architecture='encoder'"),
        ("BartModel", "bart", {"position": Learned(16)}, "position.offset=0"),
        ("BartModel", "bart", {"embedding_norm": False}, "embedding_norm=False"),
        ("BartModel", "bart", {"source_vocab_size": 11}, "source_vocab_size=11"),
        ("MarianModel", "bart", {"position": Sinusoidal()}, "position.layout='interleaved'"),
        ("MarianMTModel", "bart", {"tie_embeddings": False}, "tie_word_embeddings=false"),
        ("M2M100Model", "bart", {"norm": NormConfig(placement="post")}, "norm.placement='post'"),
        ("M2M100ForConditionalGeneration", "bart", {"lm_head_bias": True}, "lm_head_bias=True"),
    ],
)
def test_what_a_family_cannot_express_is_named(
    name: str, family: str, changes: dict[str, Any], message: str
) -> None:
    model = replace(read(CLASSES[name][0]), **changes)
    with pytest.raises(ConfigError, match=message):
        family_of_model(model, family)


def test_an_encoder_of_t5_may_be_of_any_position_but_its_own() -> None:
    model = read(CLASSES["T5EncoderModel"][0])
    assert model.architecture == "encoder" and model.lm_head == "none"
    assert isinstance(model.position, T5Relative)
    assert family_of_model(model).name == "t5"


def test_the_family_of_a_model() -> None:
    """The first that computes the same: ELECTRA without its projection is written as BERT."""
    for name, (values, _, _) in CLASSES.items():
        assert family_of_model(read(values)).name == family_of_folder(values).name, name
    wide = small("electra-small-discriminator", "ElectraModel", embedding_size=8)
    assert family_of_model(read(wide)).name == "bert"
    assert family_of_model(read(wide), "electra").name == "electra"


FOLDERS = ["bert", "roberta", "electra", "xlnet", "t5", "bart", "m2m100"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_experiments_can_be_written(folder: str) -> None:
    module = importlib.import_module(f"experiments.{folder}.model")
    for size in module.SIZES:
        model = from_dict(ModelConfig, module.model(size))
        family = family_of_model(model)
        names = [rule.reference for rule in family.plan(model, None).rules]
        assert family.read_config(family.write_config(model), names) == canonical(model), size
