"""`lm serve`: try a model over HTTP."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from absl import flags

from lm.cli.common import define_step, no_positional, use_compilation_cache
from lm.errors import ConfigError

SUMMARY = "answer completion and chat requests over HTTP, as OpenAI's API does"
EXAMPLES = """
lm serve --workdir=runs/quickstart
lm serve --workdir=runs/quickstart --port=8001 --max_batch=16 --max_new_tokens=256
curl http://127.0.0.1:8000/v1/completions -d '{"prompt": "Once", "max_tokens": 32, "stream": true}'
python -m lm.serve.load --url=http://127.0.0.1:8000 --requests=200

Completions take logprobs (0 to 5), and with echo those of the prompt's tokens too, which is how
harnesses score choices (max_tokens=0: the prompt alone).
POST /v1/chat/completions answers where the run was trained on conversations (its objective is
instruction). GET /v1/models, /health (503 until the model is compiled) and /metrics (Prometheus)
answer too.
SIGTERM: requests taken are finished, new ones refused; a second one exits at once.

This is for trying a model. To serve many users: lm export --workdir=W --output=DIR
--format=huggingface, and vllm serve DIR, which speaks the same API.
"""


def define(values: flags.FlagValues) -> None:
    """The flags of `lm serve`."""
    text, whole, number = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    options: dict[str, Any] = {"flag_values": values}
    text("workdir", None, "folder of the run whose model to use", **options)
    define_step(values, "checkpoint_step")
    text("host", "127.0.0.1", "address to listen on; there is no authentication, so any other than "
         "the default lets whoever reaches it use the model", **options)  # fmt: skip
    whole("port", 8000, "port to listen on; 0 takes a free one", lower_bound=0, upper_bound=65535,
          **options)  # fmt: skip
    whole("max_batch", 8, "most sequences decoded together", lower_bound=1, **options)
    whole("max_queue", 64, "most sequences that wait; a request beyond them gets status 429",
          lower_bound=1, **options)  # fmt: skip
    whole("max_prompt_tokens", None, "longest prompt (default: the model's positions, 2048 where "
          "they do not end)", lower_bound=1, **options)  # fmt: skip
    whole("max_new_tokens", None, "most tokens a request may ask for (default: 1024, or the "
          "model's positions)", lower_bound=1, **options)  # fmt: skip
    number("queue_timeout", 60.0, "seconds a request may wait before it gets status 503",
           lower_bound=0.0, **options)  # fmt: skip
    number("grace", 30.0, "seconds to finish requests in after SIGTERM", lower_bound=0.0, **options)
    flags.mark_flags_as_required(["workdir"], flag_values=values)


def run(values: flags.FlagValues, rest: list[str]) -> int:
    """Loads the run and serves it until a signal ends it."""

    no_positional(rest)
    if not all(map(importlib.util.find_spec, ("starlette", "uvicorn"))):
        raise ConfigError("lm serve needs starlette and uvicorn: pip install 'lm[serve]'")
    use_compilation_cache()
    from lm.serve.server import Options, serve
    from lm.train.workdir import load_run

    given: dict[str, Any] = {name: values[name].value for name in Options.__dataclass_fields__}
    return serve(load_run(Path(values.workdir), values.checkpoint_step), Options(**given))
