"""What a workdir says of the source it was made with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import lm
from lm.train.workdir import git_commit


def test_the_commit_says_whether_the_source_was_changed_and_reports_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    source = tmp_path / "lm" / "__init__.py"
    report = tmp_path / "experiments" / "paper" / "report" / "report.json"
    for path in (source, report, tmp_path / "REPRODUCTIONS.md"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1\n")
    monkeypatch.setattr(lm, "__file__", str(source))
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert git_commit() == commit
    report.write_text("2\n")
    (tmp_path / "REPRODUCTIONS.md").write_text("2\n")
    assert git_commit() == commit
    source.write_text("2\n")
    assert git_commit() == f"{commit}+changes"
