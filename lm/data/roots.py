"""Where data is read from, and where what was prepared from it is kept."""

from __future__ import annotations

import os
from pathlib import Path


def data_root(flag: str | None = None) -> Path:
    """The folder that relative paths of a config are below: --data_root, else $LM_DATA, else
    `~/.cache/lm/data`. It is only read."""
    return _root(flag, "LM_DATA", "data")


def cache_root(flag: str | None = None) -> Path:
    """The folder for what can be made again (cleaned documents, tokens, trained tokenizers): the
    flag, else $LM_CACHE, else `~/.cache/lm/prepared`."""
    return _root(flag, "LM_CACHE", "prepared")


def _root(flag: str | None, variable: str, name: str) -> Path:
    given = flag or os.environ.get(variable)
    root = Path(given) if given else Path("~/.cache/lm") / name
    # Absolute, because error messages name it and a relative one would not say where it is.
    return Path(os.path.abspath(root.expanduser()))
