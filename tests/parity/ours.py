"""What lm computes from the reference's tensors, its results under lm's names of the parameters.

Needs no torch: the golden files are checked with the same functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from lm.config import AdamW, ModelConfig, ParameterRule
from lm.convert.families import Family, family_of_folder
from lm.convert.layout import Plan
from lm.generate.decode import Completion, generate
from lm.generate.sampling import SamplingConfig
from lm.model import build_model
from lm.train.optimizer import build_optimizer
from tests.parity.cases import (
    BETAS,
    DECAY,
    EPSILON,
    IGNORED,
    LEARNING_RATE,
    NEW_TOKENS,
    Case,
    Inputs,
)

Arrays = dict[str, np.ndarray]


class Converted(NamedTuple):
    """A model made of the reference's config.json, and what its tensors are here."""

    family: Family
    config: ModelConfig
    plan: Plan

    def to_lm(self, tensors: Mapping[str, np.ndarray]) -> Arrays:
        """Parameters by path; anything else that has the tensors' shapes, as gradients, too."""
        found: Arrays = {}
        for rule in self.plan.rules:
            found.update(zip(rule.parameters, rule.layout.to_lm(tensors[rule.reference])))
        return found

    def to_reference(self, parameters: Mapping[str, np.ndarray]) -> Arrays:
        """The other way; without the duplicates."""
        return {
            rule.reference: rule.layout.to_reference([parameters[p] for p in rule.parameters])
            for rule in self.plan.rules
        }


class Computed(NamedTuple):
    """As the reference's; gradients and stepped by path."""

    outputs: Arrays
    gradients: Arrays
    stepped: Arrays


def convert(case: Case, values: Mapping[str, Any], names: Iterable[str]) -> Converted:
    """The model of a config.json and its tensors' names."""
    names = tuple(names)
    family = family_of_folder(values)
    config = family.read_config(values, names)
    plan = family.plan(config, names)
    if case.silenced:
        config, plan = _decoder_alone(config, plan)
    return Converted(family, config, plan)


def _decoder_alone(config: ModelConfig, plan: Plan) -> tuple[ModelConfig, Plan]:
    """The decoder of an encoder-decoder, without its cross-attention."""
    config = replace(
        config,
        architecture="decoder",
        num_layers=config.decoder_layers,
        num_decoder_layers=None,
        decoder_start_id=None,
    )
    kept = [
        replace(rule, parameters=tuple(p.removeprefix("decoder/") for p in rule.parameters))
        for rule in plan.rules
        if not re.match(r"encoder/|.*/cross_attention", rule.parameters[0])
    ]
    return config, plan._replace(rules=tuple(kept))


def unaccounted(converted: Converted, names: Iterable[str]) -> list[str]:
    """Tensors that no rule reads, that duplicate nothing and are not to be ignored."""
    plan = converted.plan
    read = {rule.reference for rule in plan.rules} | set(plan.duplicates)
    return [n for n in names if n not in read and not any(re.fullmatch(p, n) for p in plan.ignored)]


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The paths and shapes of the parameters that the model itself makes."""
    model = build_model(config)
    tokens = jnp.zeros((1, 1), jnp.int32)
    more = {"source": tokens} if config.architecture == "encoder_decoder" else {}
    variables = jax.eval_shape(lambda key: model.init(key, tokens, **more), jax.random.key(0))
    return {path: leaf.shape for path, leaf in flat(nn.meta.unbox(variables["params"])).items()}


def flat(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def nested(parameters: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in parameters.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = jnp.asarray(value)
    return tree


def compute(case: Case, config: ModelConfig, parameters: Arrays, inputs: Inputs) -> Computed:
    """One forward and backward pass, and one step of the optimiser."""
    model, params = build_model(config), nested(parameters)
    optimizer = build_optimizer(
        AdamW(
            learning_rate=LEARNING_RATE,
            beta1=BETAS[0],
            beta2=BETAS[1],
            epsilon=EPSILON,
            weight_decay=DECAY,
            rules=(ParameterRule(r".*", decay=True),),
        ),
        total_steps=1,
        in_steps=lambda duration: duration.in_steps(tokens_per_step=1, steps_per_epoch=1),
        params=params,
    )

    @jax.jit
    def run(params: Any, inputs: Any) -> Any:
        def loss(params: Any) -> Any:
            return forward(case, model, params, inputs)

        (value, outputs), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        outputs = {**outputs, **states(case, model, params, inputs), "loss": value}
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        return outputs, gradients, optax.apply_updates(params, updates)

    outputs, gradients, stepped = jax.tree.map(np.asarray, run(params, inputs))
    return Computed(outputs, flat(gradients), flat(stepped))


def greedy(config: ModelConfig, parameters: Arrays, prompts: list[list[int]]) -> list[Completion]:
    """Greedy continuations, all prompts in one batch."""
    completions = generate(
        build_model(config),
        nested(parameters),
        prompts,
        sampling=SamplingConfig(temperature=0.0),
        max_new_tokens=NEW_TOKENS,
    )
    return [first for (first,) in completions]


def forward(case: Case, model: Any, params: Any, inputs: Any) -> tuple[Any, dict[str, Any]]:
    """The loss, and what it is made of under the reference's names."""
    tokens, arguments = _arguments(case, inputs)
    valid = inputs["attention_mask"].astype(bool)
    valid = valid.reshape(-1, valid.shape[-1])
    labels = inputs.get("labels")
    variables = {"params": params}
    result, memory = model.apply(variables, tokens, **arguments)

    def head(kind: str) -> Any:
        hidden = result
        if model.config.lm_head != "none":
            hidden, _ = model.apply(variables, tokens, **arguments, method="hidden")
        return model.apply(variables, kind, hidden, valid, method="head")

    match case.task:
        case "causal":
            return entropy(result[:, :-1], labels[:, 1:]), {"logits": result}
        case "masked" | "seq2seq":
            return entropy(result, labels), {"logits": result}
        case "pretraining":
            next_sentence = head("next_sentence")
            loss = entropy(result, labels) + entropy(next_sentence, inputs["next_sentence_label"])
            return loss, {"logits": result, "next_sentence": next_sentence}
        case "permuted":
            memories = {f"memory/{i}": layer for i, layer in enumerate(memory)}
            return entropy(result, labels), {"logits": result, **memories}
        case "replaced":
            logits = head("replaced_token")[..., 0]
            likelihood = jax.nn.log_sigmoid(jnp.where(labels == 1, logits, -logits))
            return -jnp.sum(likelihood * valid) / jnp.sum(valid), {"logits": logits}
        case "span":
            logits = head("span")
            ends = {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}
            losses = [
                entropy(
                    jnp.where(valid, logits, -jnp.inf), inputs[name.replace("logits", "positions")]
                )
                for name, logits in ends.items()
            ]
            return sum(losses) / 2, ends
        case _:
            logits = head(HEAD_KINDS[case.task])
            if case.task == "choice":
                logits = logits.reshape(inputs["input_ids"].shape[:2])
            return entropy(logits, labels), {"logits": logits}


HEAD_KINDS = {
    "sequence": "classification",
    "next": "next_sentence",
    "choice": "multiple_choice",
    "token": "token_classification",
}


def states(case: Case, model: Any, params: Any, inputs: Any) -> dict[str, Any]:
    """The hidden states of every layer under the reference's names."""
    tokens, arguments = _arguments(case, inputs)

    def run(method: str, *tokens: Any, **arguments: Any) -> Any:
        return enumerate(model.apply({"params": params}, *tokens, **arguments, method=method))

    found = run("hidden_states", tokens, **arguments)
    if "source" not in arguments:
        return {f"hidden/{i}": state for i, state in found}
    source = {name: x for name, x in arguments.items() if name.startswith("source")}
    return {
        **{f"encoder/{i}": state for i, state in run("encoder_states", **source)},
        **{f"decoder/{i}": state for i, state in found},
    }


def _arguments(case: Case, inputs: Any) -> tuple[Any, dict[str, Any]]:
    """The reference's inputs as the model takes them: what an encoder-decoder's decoder reads, or
    any other's tokens; and the rest by name."""
    tokens, mask = inputs["input_ids"], inputs["attention_mask"]
    if case.task == "choice":
        tokens, mask = (x.reshape(-1, x.shape[-1]) for x in (tokens, mask))
    if case.task == "seq2seq":
        source = {"source": tokens, "source_positions": _positions(mask)}
        positions = _positions(inputs["decoder_attention_mask"])
        return inputs["decoder_input_ids"], {**source, "positions": positions}
    if case.model.startswith("Bart"):
        # BART classifies with a decoder that reads the same again, one token later.
        start = jnp.full_like(tokens[:, :1], case.config["decoder_start_token_id"])
        source = {"source": tokens, "source_positions": _positions(mask)}
        return jnp.concatenate([start, tokens[:, :-1]], axis=1), source
    arguments = {"positions": _positions(mask)}
    if "token_type_ids" in inputs:
        arguments["token_types"] = inputs["token_type_ids"].reshape(tokens.shape)
    if case.task == "permuted":
        arguments["allowed"] = inputs["perm_mask"] == 0
        arguments["query_at"] = jnp.argmax(inputs["target_mapping"], axis=-1)
        if "mems" in inputs:
            arguments["memory"] = tuple(memory.swapaxes(0, 1) for memory in inputs["mems"])
    return tokens, arguments


def _positions(mask: Any) -> Any:
    return jnp.where(mask > 0, jnp.cumsum(mask, axis=-1) - 1, -1).astype(jnp.int32)


def entropy(logits: Any, labels: Any) -> Any:
    """Mean cross-entropy over the labels that are not ignored."""
    counted = labels != IGNORED
    chosen = jnp.take_along_axis(
        jax.nn.log_softmax(logits), jnp.where(counted, labels, 0)[..., None], axis=-1
    )[..., 0]
    return -jnp.sum(jnp.where(counted, chosen, 0.0)) / jnp.sum(counted)
