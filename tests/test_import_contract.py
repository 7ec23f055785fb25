"""The import directions hold, and the contract that says so notices when they do not."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINT = "from importlinter.cli import lint_imports_command as lint; lint()"


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"], cwd=folder, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages and their contract, in a place where they can be broken."""
    folder = tmp_path_factory.mktemp("contract")
    for package in ("lm", "experiments", "launch"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_contract_is_kept() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("where", "what", "contract"),
    [
        ("lm/model/__init__.py", "import optax", "the model names logical axes and no more"),
        ("lm/model/__init__.py", "import lm.objectives", "the rooms import downwards"),
        ("lm/generate/__init__.py", "import lm.train", "the rooms import downwards"),
        ("lm/data/__init__.py", "from lm.model import build_model", "data and parallel know no"),
        ("lm/config/run.py", "import jax", "configs are checked before anything heavy starts"),
        ("experiments/common.py", "from lm.config import Config", "experiments are plain values"),
    ],
)
def test_a_wrong_import_breaks_it(copy: Path, where: str, what: str, contract: str) -> None:
    path = copy / where
    before = path.read_text(encoding="utf-8")
    try:
        path.write_text(f"{before}\n{what}\n", encoding="utf-8")
        done = lint_imports(copy)
    finally:
        path.write_text(before, encoding="utf-8")
    assert done.returncode == 1, done.stdout + done.stderr
    broken = [line for line in done.stdout.splitlines() if " BROKEN" in line]
    assert any(line.startswith(contract) for line in broken), done.stdout


def imported(path: Path) -> set[str]:
    """The modules that a file imports anywhere in it, as written (`experiments.common`)."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: a relative import"
            if node.module == "experiments":
                names |= {f"experiments.{alias.name}" for alias in node.names}
            else:
                names.add(node.module)
    return names


def test_experiments_import_ml_collections_and_each_other_only() -> None:
    for path in (ROOT / "experiments").rglob("*.py"):
        foreign = {
            name
            for name in imported(path)
            if name.split(".")[0] not in ("ml_collections", "experiments", *sys.stdlib_module_names)
        }
        assert not foreign, f"{path.relative_to(ROOT)} imports {', '.join(sorted(foreign))}"
