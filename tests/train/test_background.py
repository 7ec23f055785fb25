"""A job in the background: one at a time, and its failure is not lost."""

from __future__ import annotations

import threading

import pytest

from lm.train.background import Background


def test_the_owner_goes_on_and_the_next_job_comes_after() -> None:
    background, done, go = Background("test"), [], threading.Event()

    def slow() -> None:
        assert go.wait(60)
        done.append("first")

    background.start(slow)
    background.check()  # Nothing failed, and it does not wait.
    assert done == []
    threading.Timer(0.05, go.set).start()
    background.start(lambda: done.append("second"))
    background.wait()
    assert done == ["first", "second"]


@pytest.mark.parametrize("look", ["check", "wait", "start"])
def test_a_failure_is_raised_once_where_the_owner_looks(look: str) -> None:
    background, ran = Background("test"), []

    def fail() -> None:
        raise OSError("no disk")

    background.start(fail)
    while look == "check" and background._failure is None:
        threading.Event().wait(0.001)
    with pytest.raises(OSError, match="no disk"):
        background.start(lambda: ran.append(1)) if look == "start" else getattr(background, look)()
    assert not ran
    background.check()
    background.wait()
