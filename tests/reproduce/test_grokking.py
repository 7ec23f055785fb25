"""What grokking needs: all sums modulo a number as examples, and a model without norms."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import (
    Arithmetic,
    Classification,
    Config,
    Learned,
    ModelConfig,
    MultipleChoice,
    NormConfig,
    from_dict,
)
from lm.data.examples_read import read_examples
from lm.errors import ConfigError
from lm.model import build_model
from lm.train.experiment import experiment_values

OBJECTIVE = Classification(labels=tuple(map(str, range(7))))


def sums(**settings: object) -> list[tuple[str, str]]:
    source = from_dict(Arithmetic, {"modulus": 7, **settings})
    found = read_examples(source, OBJECTIVE.roles(source), Path("nowhere"))
    return [(example.values["text"], example.values["label"]) for example in found]


def test_every_sum_is_there_once_and_right() -> None:
    found = sums()
    assert len(set(found)) == 49
    for text, label in found:
        a, b, end = text.split()
        assert end == "=" and (int(a) + int(b)) % 7 == int(label)
    assert found != sorted(found), "in an order drawn by lot"
    assert found == sums() and found != sums(seed=1)


def test_fractions_share_nothing() -> None:
    first, second = sums(fraction=(0.0, 0.3)), sums(fraction=(0.3, 1.0))
    assert len(first) == 15 and first + second == sums()


def test_it_is_for_classification() -> None:
    with pytest.raises(ConfigError, match="objective 'classification'"):
        source = Arithmetic()
        read_examples(source, MultipleChoice(choices=2).roles(source), Path("nowhere"))
    with pytest.raises(ConfigError, match="modulus must be at least 2"):
        sums(modulus=1)


def test_every_share_is_split_and_seen_whole() -> None:
    for variant, share in (("f50", 0.5), ("f25", 0.25), ("f95", 0.95)):
        config = from_dict(Config, experiment_values(f"experiments/grokking/modular.py:{variant}"))
        (train,), (test,) = config.data.train.values(), config.data.validation.values()
        assert train.fraction == (0.0, share) and test.fraction == (share, 1.0)
        assert 0 <= round(share * 113**2) - config.train.batch_size < 8


def test_a_model_without_norms() -> None:
    """It has no norm's parameters, and x + f(x) is all that its layers do: logits of a model whose
    embeddings are small are those of it a thousandth as large, times a thousand (but for
    attention's softmax, which here looks at one token)."""
    config = ModelConfig(
        vocab_size=11,
        num_layers=2,
        d_model=8,
        num_heads=2,
        d_ff=16,
        position=Learned(max_length=4),
        norm=NormConfig(kind="none"),
        activation="relu",
        attention_bias=False,
        attention_output_bias=False,
        mlp_bias=False,
        tie_embeddings=False,
    )
    model = build_model(config)
    tokens = jnp.array([[3]])
    params = model.init(jax.random.key(0), tokens)["params"]
    assert "norm" not in str(jax.tree.map(jnp.shape, params))
    smaller = {
        name: jax.tree.map(lambda leaf: leaf / 1000, tree) if "embedding" in name else tree
        for name, tree in params.items()
    }
    one, other = (np.asarray(model.apply({"params": p}, tokens)[0]) for p in (params, smaller))
    assert np.abs(one).max() > 0 and np.allclose(one, 1000 * other, rtol=1e-4)


def test_no_norm_has_no_bias() -> None:
    with pytest.raises(ConfigError, match="no norm has no bias"):
        NormConfig(kind="none", bias=True)
