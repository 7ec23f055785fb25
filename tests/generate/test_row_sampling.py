"""Settings a row: the same tokens as with the settings of one row at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from lm.generate.row_sampling import sample_rows
from lm.generate.sampling import SamplingConfig, sample

# Temperature, top_p (1: all) and top_k (0: all).
SETTINGS = [
    (0.0, 1.0, 0), (1.0, 1.0, 0), (0.5, 0.3, 0), (2.0, 0.9, 0), (1.0, 1e-6, 0), (0.0, 0.5, 3),
    (2.0, 1.0, 1), (2.0, 1.0, 4), (1.5, 0.6, 5), (1.0, 1.0, 50), (1.0, 1.0, 80),
]  # fmt: skip


def test_sampling_of_rows_is_sampling() -> None:
    rows = len(SETTINGS)
    logits = 3 * jax.random.normal(jax.random.key(1), (rows, 50))
    temperature, top_p, top_k = map(jnp.array, zip(*SETTINGS))
    for seed in range(8):
        keys = jax.random.split(jax.random.key(seed), rows)
        mixed = sample_rows(keys, logits, temperature, top_p, top_k)
        for row, (t, p, k) in enumerate(SETTINGS):
            config = SamplingConfig(t, top_p=p, top_k=k or None)
            [one] = sample(keys[row : row + 1], logits[row : row + 1], config)
            assert mixed[row] == one, (seed, SETTINGS[row])


def test_of_equals_all_are_kept() -> None:
    """As many as are like the k-th, as with one k for all rows."""
    logits = jnp.log(jnp.array([[0.4, 0.2, 0.2, 0.2]] * 200))
    keys = jax.random.split(jax.random.key(3), 200)
    ones = jnp.ones(200)
    drawn = sample_rows(keys, logits, ones, ones, jnp.full(200, 2))
    assert set(np.unique(drawn)) == {0, 1, 2, 3}
    assert set(np.unique(sample_rows(keys, logits, ones, ones, jnp.ones(200, jnp.int32)))) == {0}
