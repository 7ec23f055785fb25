"""Says once why there is no parity where the reference is not installed."""

from __future__ import annotations

import pytest


def test_reference_is_installed() -> None:
    reason = "no transformers or torch here: make test-parity installs both"
    for name in ("torch", "transformers"):
        pytest.importorskip(name, reason=reason)
