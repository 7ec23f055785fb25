from pathlib import Path

import pytest

from lm.data.roots import cache_root, data_root


def test_flag_then_variable_then_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LM_DATA", str(tmp_path / "variable"))
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "cache"))
    assert data_root(str(tmp_path / "flag")) == tmp_path / "flag"
    assert data_root() == tmp_path / "variable"
    assert cache_root() == tmp_path / "cache"
    monkeypatch.delenv("LM_DATA")
    monkeypatch.delenv("LM_CACHE")
    assert data_root() == Path.home() / ".cache/lm/data"
    assert cache_root() == Path.home() / ".cache/lm/prepared"


def test_a_relative_root_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_root("here/../there") == tmp_path / "there"
