"""What an artefact's folder says of itself."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from lm.export.programs import Use

_EXAMPLES = {
    "generate": 'python run.py --text="Once upon a time" --max_new_tokens=40',
    "classify": 'python run.py --text="A text to classify"',
    "regress": 'python run.py --text="A text" --text_pair="another one"',
    "tag": 'python run.py --text="Every word gets a tag"',
    "embed": 'python run.py --text="A text" --pooling=mean --normalize',
}
_SAYS = {
    "generate": "continues a text",
    "classify": "gives a text, or a pair of texts, a label",
    "regress": "gives a text, or a pair of texts, a number",
    "tag": "gives every word of a text a tag",
    "embed": "turns a text into a vector",
}


def requirements() -> str:
    """requirements.txt: the release of JAX that exported the program, or a later one."""
    return f"jax>={jax.__version__}\nflatbuffers\nnumpy\ntokenizers\n"


def readme(name: str, use: Use, platforms: Sequence[str]) -> str:
    """README.md of the model `name`."""
    says = _SAYS[use.kind]
    if use.how.get("reads_source"):
        says = "reads a text and writes another one"
    inputs = "\n".join(
        f"    {key:<18}{jax.numpy.dtype(dtype).name:<9}[{', '.join(map(str, shape))}]"
        for key, (shape, dtype) in use.program.inputs.items()
    )
    limits = "".join(f", {limit}" for limit in use.program.limits)
    return f"""# {name}

A model that {says}. It runs in JAX on {", ".join(platforms)}, without the source that it was
trained with:

    pip install -r requirements.txt      (for a GPU: jax[cuda13], for a TPU: jax[tpu])
    {_EXAMPLES[use.kind]}

    from run import Artefact
    print(Artefact(".")(["a text", "another one"]))

Files:

    {use.kind + ".jax_export":<22}the program: StableHLO, as jax.export.serialize writes it
    weights.safetensors   the parameters; their paths are their names
    tokenizer.json        for the library tokenizers
    manifest.json         the program's inputs, what stands around a text, labels, SHA-256 sums
    run.py                from texts to answers; read it to see how the program is called

The program is a function of the parameters and of these arrays (a letter is any length{limits}),
compiled once for each set of lengths:

{inputs}

JAX {jax.__version__} exported it. JAX promises that releases of the six months after one load what
that one exported, and in practice later ones do too: keep the run it came from to export it anew.
"""
