"""What experiment files share: choosing a variant, recurring pieces, and the `:smoke` size.

An experiment is a file with a docstring (paper, command, cost, what was measured), a mapping
`VARIANTS` from names to functions without arguments, and `get_config(arg)`. Beside it, a family's
`model.py` has its published sizes, `SIZES`, and `model(size)`: what is computed, `lm.config`'s
`ModelConfig`; how (precision, rematerialisation) and on what is the experiment's. The values are
plain: nested dicts of `lm.config`'s dataclasses, a choice between kinds told by its key `kind`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

# The size of the `:small` variants: tokens and steps are what the first of what a model learns from
# a masked text needs (it stays at the unigram for half a million predictions), not width.
TINY = {"num_layers": 2, "d_model": 64, "num_heads": 4, "d_ff": 256}

Variants = Mapping[str, Callable[[], ConfigDict]]
T = TypeVar("T")


def select(arg: str, variants: Variants) -> ConfigDict:
    """The variant named `arg`: the first one for "", and its shrunken copy for "smoke".

    Raises:
      ValueError: there is no such variant; the message lists those there are.
    """
    default = next(iter(variants))
    if arg == "smoke":
        return smoke(variants[default]())
    if (arg or default) not in variants:
        raise ValueError(f"no variant {arg!r}; there are: {', '.join([*variants, 'smoke'])}")
    return variants[arg or default]()


def of_size(size: str, sizes: Mapping[str, T]) -> T:
    """The numbers of one size of a family.

    Raises:
      ValueError: there is no such size; the message lists those there are.
    """
    if size not in sizes:
        raise ValueError(f"no size {size!r}; there are: {', '.join(sizes)}")
    return sizes[size]


def split(source: Mapping[str, Any], held_out: float) -> dict[str, Any]:
    """`train` and `validation` of one corpus: its first part, and the last `held_out` of it."""
    border = 1.0 - held_out
    return {
        "train": {"text": {**source, "fraction": (0.0, border)}},
        "validation": {"text": {**source, "fraction": (border, 1.0)}},
    }


def no_bias() -> dict[str, bool]:
    """The switches of a model without any bias in its projections."""
    return {"attention_bias": False, "attention_output_bias": False, "mlp_bias": False}


def at_scale(model: Mapping[str, Any], remat: str = "full") -> dict[str, Any]:
    """The model as accelerators compute it: bfloat16, its layers scanned and rematerialised."""
    scanned = model.get("architecture") != "two_stream"
    return {**model, "compute_dtype": "bfloat16", "remat": remat, "scan_layers": scanned}


def resized(model: Mapping[str, Any], **sizes: Any) -> dict[str, Any]:
    """The family's model at sizes of ours: every switch kept, no dropout, and initial weights that
    grow as the width shrinks, for layers that start as far from linear as the family's do."""
    d_model = sizes["d_model"]
    stddev = model.get("init", {}).get("stddev", 0.02) * (model["d_model"] / d_model) ** 0.5
    init = {**model.get("init", {}), "stddev": round(stddev, 4)}
    values = {**model, **sizes, "dropout": {}, "init": init}
    if model.get("head_dim") is not None:
        values["head_dim"] = d_model // sizes["num_heads"]
    if model.get("logit_scale") is not None:  # T5's, of tied embeddings
        values["logit_scale"] = d_model**-0.5
    if model.get("embedding_size") == model["d_model"]:
        values["embedding_size"] = d_model
    return values


def minutes(*, steps: int, rows: int, learning_rate: float) -> dict[str, Any]:
    """How the `:small` variants train, in minutes on a CPU: `steps` of AdamW, with evaluation."""
    return {
        "train": {
            "batch_size": rows,
            "duration": {"steps": steps},
            "steps_per_dispatch": 10,
            "log_every": 20,
        },
        "optimizer": {
            "kind": "adamw",
            "learning_rate": learning_rate,
            "schedule": {"kind": "linear", "warmup": {"steps": steps // 10}},
            "beta2": 0.98,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
        },
        "evaluation": {"every": {"steps": steps // 5}, "batches": 20},
        "checkpoint": {"every": {"steps": steps}},
    }


# What the embedded examples have, and fits short rows.
TASKS: dict[str, dict[str, Any]] = {
    "classification": {"labels": ("short", "long")},
    "regression": {},
    "token_classification": {"labels": ("other", "name"), "outside": "other"},
    "question_answering": {"stride": 8, "max_question_tokens": 12},
    "multiple_choice": {"choices": 2},
    "instruction": {"template": {"before": "{role}:", "after": "", "between": "\n"}},
}

# What objectives need above the byte tokenizer's 259 ids: a mask, sentinels, tokens for modes.
_BYTES, _MORE = 259, 45


def smoke(config: ConfigDict) -> ConfigDict:
    """The same experiment in seconds: every switch kept, every size shrunk, embedded text as bytes.

    It shows that the config runs, never what it learns.
    """
    values = config.to_dict()
    train, objective = values["train"], values.get("objective", {"kind": "causal_lm"})
    causal = objective["kind"] == "causal_lm"
    _shrink(values["model"], _BYTES if causal else _BYTES + _MORE)
    if objective.get("generator") is not None:
        _shrink(objective["generator"], values["model"]["vocab_size"])
    for name, most in (("num_predict", 6), ("reuse_length", 16), ("perm_size", 16)):
        if objective.get(name) is not None:
            objective[name] = min(most, objective[name])
    if objective.get("max_predictions") is not None:
        objective["max_predictions"] = min(5, objective["max_predictions"])

    if objective.get("target_length") is not None:
        objective["target_length"] = min(32, objective["target_length"])

    if objective["kind"] == "in_context_regression":
        _shrink_functions(values)
    else:
        _embed(values)
    train.update(
        batch_size=8,
        microbatches=min(2, train.get("microbatches", 1)),
        steps_per_dispatch=min(2, train.get("steps_per_dispatch", 1)),
        duration={"steps": 4},
        log_every=2,
    )
    schedule = values.get("optimizer", {}).get("schedule", {})
    for name in ("warmup", "decay"):
        if name in schedule:
            schedule[name] = {"steps": 1}
    if "fsdp" in values.get("parallel", {}):
        values["parallel"]["fsdp"] = min(2, values["parallel"]["fsdp"])
    values["evaluation"] = {"every": {"steps": 2}, "batches": 2}
    values["checkpoint"] = {**values.get("checkpoint", {}), "every": {"steps": 2}}
    return ConfigDict(values)


def _shrink_functions(values: dict[str, Any]) -> None:
    """Fewer and smaller functions, of points that fill 32 places, in place."""
    objective = values["objective"]
    objective["report"] = tuple(number for number in objective["report"] if number < 16)
    for split in ("train", "validation"):
        for source in values["data"][split].values():
            source.update(dims=4, points=16, functions=64)
            for name, most in (("first_dims", 2), ("first_points", 8), ("grow_every", 8)):
                if source.get(name) is not None:
                    source[name] = most
    values["data"]["sequence_length"] = 32


def _embed(values: dict[str, Any]) -> None:
    """Embedded text as bytes in the place of the data, in place."""
    objective = values.get("objective", {"kind": "causal_lm"})
    source: dict[str, Any] = {"kind": "embedded"}
    if objective.get("pairs") == "translation" or objective["kind"] == "sequence_to_sequence":
        source["pairs"] = True
        values["data"]["too_long"] = "cut"
    if objective["kind"] in TASKS:
        source["examples"] = True
        values["data"]["too_long"] = "cut"
        objective.update(TASKS[objective["kind"]])
    values["data"].update(
        train={"embedded": {**source, "fraction": (0.0, 0.02)}},
        validation={"embedded": {**source, "fraction": (0.02, 0.03)}},
        tokenizer={"kind": "byte"},
        sequence_length=32,
    )


def _shrink(model: dict[str, Any], vocab_size: int) -> None:
    """Every size of a model, in place."""
    layers = max(1, len(model.get("layer_pattern", ("global",))))
    smallest = {
        "num_decoder_layers": layers,
        "num_kv_heads": 2,
        "head_dim": 8,
        "window": 8,
        "embedding_size": 16,
    }
    for name, size in smallest.items():
        if model.get(name) is not None:
            model[name] = min(size, model[name])
    if model.get("source_vocab_size") is not None:
        model["source_vocab_size"] = vocab_size
    model.update(
        vocab_size=vocab_size,
        num_layers=layers,
        d_model=32,
        num_heads=4,
        # Attention alone stays so.
        d_ff=min(64, model["d_ff"]),
        compute_dtype="float32",
    )
    if "max_length" in model["position"]:
        model["position"]["max_length"] = 32
