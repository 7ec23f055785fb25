"""The command: a folder in, a folder out, and transformers computes the same from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.parity import reference
from tests.parity.cases import CASES, VOCABULARY, Case, batches
from tests.parity.errors import TOLERANCE, errors, visible

LETTERS = "abcdefghijklmnopqrstuvwxyz"
# One of each way a tokenizer and a head may come.
CHOSEN = [case for case in CASES if case.name in ("llama3", "bert", "t5-v1.1")]


def add_tokenizer(case: Case, folder: Path) -> None:
    """As many tokens as the tiny models know."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *LETTERS][:VOCABULARY]
    if case.name == "bert":
        (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
        return
    backend = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.Fuse()
    backend.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
def test_through_the_command(case: Case, tmp_path: Path, run_lm: Any) -> None:
    before, workdir, after = tmp_path / "before", tmp_path / "run", tmp_path / "after"
    reference.make_folder(case, before)
    add_tokenizer(case, before)

    for arguments in (
        (f"--from={before}", f"--workdir={workdir}"),
        (f"--workdir={workdir}", f"--to={after}"),
    ):
        result = run_lm("convert", *arguments)
        assert result.returncode == 0, result.stderr

    tensors, back = (load_file(folder / reference.WEIGHTS) for folder in (before, after))
    assert sorted(back) == sorted(tensors)
    assert all(np.array_equal(back[name], x) for name, x in tensors.items())
    for inputs in batches(case).values():
        wanted, found = (reference.outputs(case, folder, inputs) for folder in (before, after))
        wanted, found = (visible(case, outputs, inputs) for outputs in (wanted, found))
        apart = {name: error.apart for name, error in errors(found, wanted, wanted).items()}
        assert max(apart.values()) <= TOLERANCE, apart
