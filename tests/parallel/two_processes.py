"""One of two processes that train together; prints what came out. Run by test_processes.py.

Arguments: a mapping's name ("sharded" or "data_parallel"), the port, the process's number, and
how many processes there are.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import jax
import numpy as np
import optax

from lm.config import ParallelConfig
from lm.parallel.mapping import Program, build_mapping
from lm.train.state import boxed_params, create_state
from lm.train.step import evaluate_step, multi_step, train_step
from tests.parallel.toy import ToyObjective, batches, one

ROWS, STEPS = 8, 2


def main(kind: Any, port: str, index: int, count: int = 2) -> None:
    if count > 1:
        jax.distributed.initialize(f"localhost:{port}", num_processes=count, process_id=index)
    objective, optimizer = ToyObjective(), optax.sgd(0.1)
    data = batches(STEPS, ROWS)

    def train(state: Any, stacked: Any, **placed: Any) -> Any:
        step = functools.partial(
            train_step, objective=objective, optimizer=optimizer, microbatches=2, **placed
        )
        return multi_step(step)(state, stacked)

    program = Program(
        init=lambda: create_state(objective, optimizer, one(data), 0),
        boxed_params=lambda: boxed_params(objective, one(data), 0),
        train=train,
        evaluate=functools.partial(evaluate_step, objective=objective),
    )
    config = ParallelConfig(mapping=kind, fsdp=2 if kind == "sharded" else 1)
    mapped = build_mapping(config, program, batch_size=ROWS, microbatches=2)
    mine = {
        name: x[:, index * ROWS // count : (index + 1) * ROWS // count] for name, x in data.items()
    }
    state, metrics = mapped.train(mapped.init(), mapped.put(mine))
    total, weight = mapped.evaluate(mapped.params(state), one(mine))["loss"]
    saved = mapped.to_save(state)
    state = mapped.from_saved(saved)
    assert jax.tree.leaves(saved)[0].is_fully_addressable == (count == 1)
    bias = np.asarray(saved.params["up"]["bias"].addressable_shards[0].data)
    print(
        json.dumps(
            {
                "devices": mapped.devices,
                "metrics": {k: np.asarray(v).tolist() for k, v in metrics.items()},
                "evaluation": [float(total), float(weight)],
                "bias": bias.tolist(),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
