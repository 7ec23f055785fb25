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


def smoke(config: ConfigDict) -> ConfigDict:
    """The same experiment in seconds: every switch kept, every size shrunk, embedded text as bytes.

    It shows that the config runs, never what it learns.
    """
    values = config.to_dict()
    model, train = values["model"], values["train"]
    pattern = model.get("layer_pattern", ("global",))
    kv_heads = model.get("num_kv_heads")
    model.update(
        vocab_size=259,  # the byte tokenizer's
        num_layers=max(2, len(pattern)),
        d_model=32,
        num_heads=4,
        d_ff=64,
        compute_dtype="float32",
    )
    if kv_heads is not None:
        model["num_kv_heads"] = min(2, kv_heads)
    if model.get("head_dim") is not None:
        model["head_dim"] = 8
    if model.get("window") is not None:
        model["window"] = 8
    if "max_length" in model["position"]:
        model["position"]["max_length"] = 32

    values["data"].update(
        train={"embedded": {"kind": "embedded", "fraction": (0.0, 0.02)}},
        validation={"embedded": {"kind": "embedded", "fraction": (0.02, 0.03)}},
        tokenizer={"kind": "byte"},
        sequence_length=32,
    )
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
