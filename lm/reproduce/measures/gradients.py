"""The gradient of a model that has not been trained yet, layer norms before or after."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from lm.config.checks import at_least, check
from lm.reproduce.measures.base import Found, Inputs, MeasureBase

_VOCABULARY, _HEADS = 512, 4


@dataclass(frozen=True)
class NormPlacement(MeasureBase):
    """The norm of the gradient of the last layer's second feed-forward matrix at Xavier's
    initialisation, for decoders of several `depths`, with norms before ("pre") and after ("post")
    each sub-layer (Xiong et al. 2020, section 3.3). Text is uniform noise: what matters at the
    beginning is the scale alone.

    post_spread   largest over smallest norm of the depths, of each seed
    pre_slope     of log norm over log depth, by least squares, of each seed
    """

    depths: tuple[int, ...] = (6, 8, 10, 12, 14)
    seeds: tuple[int, ...] = tuple(range(10))
    width: int = 128
    length: int = 32
    rows: int = 8
    kind: Literal["norm_placement"] = "norm_placement"

    VERSION: ClassVar[int] = 3

    def __post_init__(self) -> None:
        check(len(self.depths) > 1, "a slope over depth needs two depths")
        check(len(self.seeds) > 0, "seeds names none")
        at_least(self, 1, "width", "length", "rows")
        check(self.width % _HEADS == 0, f"width must be a multiple of {_HEADS}")

    @property
    def quantities(self) -> tuple[str, ...]:
        return ("post_spread", "pre_slope")

    def measure(self, inputs: Inputs) -> Found:
        pre = np.array([self._norms("pre", depth) for depth in self.depths])
        post = np.array([self._norms("post", depth) for depth in self.depths])
        logs = np.log(self.depths)
        # By seed: each is one draw of all depths.
        spread = (post.max(axis=0) / post.min(axis=0)).tolist()
        slope = np.polyfit(logs, np.log(pre), 1)[0].tolist()
        details = {
            "depths": list(self.depths),
            "norms": {"pre": pre.tolist(), "post": post.tolist()},
        }
        return Found({"post_spread": spread, "pre_slope": slope}, details)

    def _norms(self, placement: Literal["pre", "post"], depth: int) -> list[float]:
        """One norm a seed."""
        import jax
        import jax.numpy as jnp
        from flax import linen as nn

        from lm.config import InitConfig, Learned, ModelConfig, NormConfig
        from lm.model import build_model

        model: Any = build_model(
            ModelConfig(
                vocab_size=_VOCABULARY,
                num_layers=depth,
                d_model=self.width,
                num_heads=_HEADS,
                d_ff=4 * self.width,
                position=Learned(max_length=self.length),
                activation="relu",
                norm=NormConfig(placement=placement),
                tie_embeddings=False,
                init=InitConfig(
                    # Xavier's for the readout, which is no layer's, too.
                    stddev=math.sqrt(2 / (self.width + _VOCABULARY)),
                    scale_residual=False,
                    projections="xavier",
                ),
            )
        )

        def loss(params: Any, tokens: Any) -> Any:
            logits, _ = model.apply({"params": params}, tokens)
            scores = jax.nn.log_softmax(logits[:, :-1])
            return -jnp.mean(jnp.take_along_axis(scores, tokens[:, 1:, None], axis=-1))

        shape = (self.rows, self.length)

        @jax.jit
        def norm_of(key: Any) -> Any:
            first, second = jax.random.split(key)
            tokens = jax.random.randint(first, shape, 0, _VOCABULARY)
            gradient = jax.grad(loss)(nn.unbox(model.init(second, tokens)["params"]), tokens)
            return jnp.linalg.norm(last_matrix(gradient, depth))

        return [float(norm_of(jax.random.key(seed))) for seed in self.seeds]


def last_matrix(params: Any, depth: int) -> Any:
    """The second matrix of the last layer's feed-forward."""
    return params[f"layer_{depth - 1}"]["mlp"]["down"]["kernel"]
