"""Learning-rate schedules: a pure function from the optimiser step to the learning rate.

Steps are counted from 0 to total_steps - 1. With `w` warm-up steps, step s < w has the learning
rate peak * (s + 1) / (w + 1), so that no step is wasted on a rate of 0 and step w is the first one
at the peak. Schedules that decay reach `final` * peak at the last step and stay there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lm.config import Constant, Cosine, Duration, InverseSqrt, Linear, Schedule, WarmupStableDecay
from lm.errors import ConfigError

ScheduleFn = Callable[["int | jax.Array"], jax.Array]


def build_schedule(
    config: Schedule, *, peak: float, total_steps: int, in_steps: Callable[[Duration], int]
) -> ScheduleFn:
    """The learning rate of optimiser step s, float32, for s a Python int or an int32 array.

    After a warm-up of w steps, with N = total_steps:
      constant             peak
      linear               from peak at step w to final * peak at step N - 1, on a line
      cosine               the same two ends, on half a cosine (Loshchilov & Hutter 2017)
      inverse_sqrt         peak * sqrt((w + 1) / (s + 1)) (Vaswani et al. 2017, equation 3)
      warmup_stable_decay  peak, and over the last d steps down to final * peak on a line: step
                           N - d is the first one below the peak (MiniCPM, Hu et al. 2024)

    Args:
      in_steps: turns the durations of the config into optimiser steps.

    Raises:
      ConfigError: warm-up and decay together are longer than the training.
    """
    warmup = in_steps(config.warmup)
    decay = in_steps(config.decay) if isinstance(config, WarmupStableDecay) else 0
    _check_lengths(config, warmup, decay, total_steps)
    last = total_steps - 1

    def after_warmup(step: jax.Array) -> jax.Array:
        """The factor of the peak at steps from `warmup` on; its values before are not used."""
        if isinstance(config, Linear):
            return 1.0 - (1.0 - config.final) * _progress(step, warmup, last)
        if isinstance(config, Cosine):
            cosine = 0.5 * (1.0 + jnp.cos(math.pi * _progress(step, warmup, last)))
            return config.final + (1.0 - config.final) * cosine
        if isinstance(config, InverseSqrt):
            return jnp.sqrt((warmup + 1.0) / (step + 1.0))
        if isinstance(config, WarmupStableDecay) and decay:
            return 1.0 - (1.0 - config.final) * _progress(step, last - decay, last)
        assert isinstance(config, (Constant, WarmupStableDecay))
        return jnp.ones_like(step)

    def schedule(step: int | jax.Array) -> jax.Array:
        position = jnp.asarray(step, jnp.float32)
        rising = (position + 1.0) / (warmup + 1.0)
        return peak * jnp.where(position < warmup, rising, after_warmup(position))

    return schedule


def _progress(step: jax.Array, start: int, end: int) -> jax.Array:
    """0 up to step `start`, 1 from step `end` on, a line between."""
    return jnp.clip((step - start) / max(end - start, 1), 0.0, 1.0)


def _check_lengths(config: Schedule, warmup: int, decay: int, total_steps: int) -> None:
    if isinstance(config, (Linear, Cosine)) and warmup >= total_steps:
        raise ConfigError(
            f"schedule {config.kind!r}: a warm-up of {warmup} steps leaves none of the "
            f"{total_steps} steps of training to decay in; lower optimizer.schedule.warmup or "
            "train longer"
        )
    if warmup + decay > total_steps:
        what = f"{warmup} steps of warm-up" + (f" and {decay} of decay" if decay else "")
        raise ConfigError(
            f"schedule {config.kind!r}: {what} do not fit into {total_steps} steps of training; "
            f"shorten {'one' if decay else 'the warm-up'} or train longer"
        )
