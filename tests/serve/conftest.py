"""The rooms of lm.serve need its extra."""

from __future__ import annotations

import importlib.util

if not all(map(importlib.util.find_spec, ("starlette", "uvicorn"))):
    collect_ignore_glob = ["test_*.py"]
