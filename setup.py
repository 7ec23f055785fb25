"""Packaging of `lm`: `pip install -e .`, with extras for the accelerator and for the tests."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent

SERVE = ["starlette>=1.0", "uvicorn>=0.54"]
EVAL = ["rouge-score>=0.1.2", "sacrebleu>=2.6"]
EXPORT = ["flatbuffers"]


def version() -> str:
    """Read from the source, since importing `lm` would need its dependencies."""
    text = (ROOT / "lm" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError("lm/__init__.py does not set __version__")
    return found.group(1)


setup(
    name="lm",
    version=version(),
    description="A JAX/Flax research codebase for language models",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(
        include=["lm", "lm.*", "experiments", "experiments.*", "launch", "launch.*"]
    ),
    entry_points={"console_scripts": ["lm=lm.cli.main:entry"]},
    install_requires=[
        "absl-py",
        "flax>=0.12",
        "grain>=0.2.18",
        # tensorflow-datasets imports it without declaring it.
        "importlib_resources",
        "jax>=0.10",
        "jaxtyping",
        "matplotlib",
        "ml-collections>=1.1",
        "numpy>=2",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        # sentencepiece reads its models' settings through it without declaring it.
        "protobuf",
        "scipy",
        "sentencepiece",
        "tensorboardX",
        "tensorflow-datasets>=4.9.10",
        "tokenizers",
        "tqdm",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10"],
        "cuda": ["jax[cuda13]>=0.10"],
        # Only to prepare TFDS's own datasets; reading prepared ones needs no TensorFlow.
        "tf": ["tensorflow"],
        # Words of Chinese text, for whole-word masking.
        "chinese": ["jieba"],
        # `lm serve`.
        "serve": SERVE,
        # BLEU, chrF and ROUGE.
        "eval": EVAL,
        # `lm export --format=jax`: JAX serialises programs with it.
        "export": EXPORT,
        # `lm evaluate --suite=lm-eval`.
        "lm-eval": ["lm-eval>=0.4.13"],
        # `lm sweep --engine=ray`.
        "ray": ["ray[tune]>=2.50"],
        # What `lm bench` measures beside us; transformers' fifth version as for `parity`.
        "bench": ["torch>=2.13", "transformers>=5.23,<6"],
        # Only to compare with the reference implementation (tests/parity). Its fifth version
        # renamed arguments and keeps T5's settings in other keys; a sixth would do the like.
        "parity": ["peft", "safetensors", "torch>=2.13", "transformers>=5.23,<6"],
        "test": [
            "beartype",
            "hypothesis",
            "import-linter",
            "mypy",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            *EVAL,
            *EXPORT,
            *SERVE,
            # Whose metrics ours are compared with.
            "scikit-learn",
            "seqeval",
            # A new minor version may format differently.
            "ruff==0.17.*",
        ],
    },
)
