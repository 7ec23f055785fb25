import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lm.data import embedded
from lm.errors import UserError


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(embedded.texts())


def test_about_two_megabytes_of_documentation(texts: list[str]) -> None:
    assert 1_000_000 < sum(map(len, texts)) < 4_000_000
    assert len(texts) > 300
    assert all(text.strip() for text in texts)
    whole = "\n".join(texts)
    assert "Deep copy operation on arbitrary Python objects." in whole  # a function's, from copy
    assert 'The "if" statement is used for conditional execution' in whole  # a topic


def test_the_order_is_not_by_module(texts: list[str]) -> None:
    first = [text[:40] for text in texts]
    assert first != sorted(first)
    # Long documents spread over the order: halves of it hold about as much text.
    half = sum(map(len, texts[: len(texts) // 2])) / sum(map(len, texts))
    assert 0.3 < half < 0.7


def test_another_process_reads_the_same_and_imports_no_module(texts: list[str]) -> None:
    code = (
        "import hashlib, sys; from lm.data import embedded; texts = list(embedded.texts()); "
        "assert not {'tkinter', 'turtle', 'this', 'smtplib'} & set(sys.modules); "
        "print(hashlib.sha256(repr(texts).encode()).hexdigest())"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root, env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert run.stdout.strip() == hashlib.sha256(repr(texts).encode()).hexdigest()


def test_a_python_without_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedded.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(UserError, match="no library source below .* a source of kind 'text'"):
        list(embedded.texts())
