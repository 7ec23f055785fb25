"""The corpus inside every Python: the language reference's topics and the library's docstrings.

Modules are parsed, never imported. The order of the documents is that of a hash of their text, so
that a part of the corpus is a fair sample of it and not, say, the modules from a to m.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import sys
import sysconfig
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from lm.errors import UserError

# Raise when `texts` or `examples` yields something else for the same library.
VERSION = 1
# Tests, applications, other people's packages: not the documentation of the library.
_SKIPPED = {
    "__pycache__", "test", "tests", "idlelib", "idle_test", "lib2to3", "turtledemo", "ensurepip",
    "site-packages", "dist-packages", "lib-dynload", "pydoc_data", "_vendor",
}  # fmt: skip


def module_files() -> list[Path]:
    """The source files of the standard library that the corpus is made of, sorted.

    UserError where this Python has no source files.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    topics = root / "pydoc_data" / "topics.py"
    modules = []
    for folder, below, names in os.walk(root):
        # What is skipped holds most of the files: not even looked at.
        below[:] = [name for name in below if name not in _SKIPPED]
        if folder == str(root):
            below[:] = [name for name in below if not name.startswith("config-")]
        modules += [Path(folder, name) for name in names if name.endswith(".py")]
    modules.sort()
    if not topics.is_file() or len(modules) < 100:
        raise UserError(
            f"this Python ({sys.version.split()[0]}) has no library source below {root}, so there "
            "is no embedded corpus; use a full Python, or a source of kind 'text'"
        )
    return [*modules, topics]


def texts() -> Iterator[str]:
    """One document per module (its docstrings) and per topic of the language reference."""
    *modules, topics = module_files()
    found = [text for path in modules if (text := _docstrings(path))]
    found += [text.strip() + "\n" for text in _topics(topics)]
    yield from sorted(found, key=lambda text: hashlib.sha256(text.encode("utf-8")).digest())


def examples() -> Iterator[dict[str, Any]]:
    """Lines of the language reference as examples of every task, to try tasks out: nothing that is
    worth learning. Labels are "short" and "long" (above 40 characters), tags "name" (a word that
    begins with a capital) and "other"; a question is a word, and its answer where it stands first;
    a line's first word is answered with its second.
    """
    *_, topics = module_files()
    lines = (line.strip() for text in _topics(topics) for line in text.split("\n"))
    for line, after in pairwise(line for line in lines if len(line.split()) > 2):
        words = line.split()
        longest = max(words, key=len)
        yield {
            "text": line,
            "text_pair": after,
            "label": "long" if len(line) > 40 else "short",
            "value": len(line) / 40,
            "words": words,
            "tags": ["name" if word[0].isupper() else "other" for word in words],
            "question": longest,
            "context": line,
            "answers": [{"text": longest, "answer_start": line.index(longest)}],
            "choices": [after, after[::-1]],
            "choice": 0,
            "messages": [
                {"role": "user", "content": words[0]},
                {"role": "assistant", "content": words[1]},
            ],
        }


def _docstrings(path: Path) -> str:
    found = []
    for node in _statements(ast.parse(path.read_bytes(), filename=str(path))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node, clean=False)
            # Some docstrings quote lone surrogates, which are no text.
            if text and not any("\ud800" <= character <= "\udfff" for character in text):
                found.append(inspect.cleandoc(text))
    return "\n\n".join(found) + "\n" if found else ""


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """`node` and the statements below it, in the order of the source; expressions are not entered,
    which makes it several times faster than ast.walk."""
    yield node
    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
        children = getattr(node, field, None)
        if isinstance(children, list):
            for child in children:
                yield from _statements(child)


def _topics(path: Path) -> list[str]:
    for node in ast.parse(path.read_bytes(), filename=str(path)).body:
        if isinstance(node, ast.Assign):
            return list(ast.literal_eval(node.value).values())
    raise UserError(f"{path} does not define the topics it should; use a source of kind 'text'")
