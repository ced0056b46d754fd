"""Reading Redis's replies."""

from __future__ import annotations

import gc
import threading

import pytest
from adin.features import wire

pytestmark = pytest.mark.flow(9, 10)


def test_garbage_is_looked_for_again_once_the_last_of_several_readers_is_done() -> None:
    inside, leave = threading.Barrier(2), threading.Event()

    def read() -> None:
        with wire._uncollected():
            inside.wait(10)
            leave.wait(10)

    reader = threading.Thread(target=read)
    reader.start()
    inside.wait(10)
    with pytest.raises(OSError), wire._uncollected():
        raise OSError
    assert not gc.isenabled()
    leave.set()
    reader.join()
    assert gc.isenabled()


def test_who_looks_for_no_garbage_is_left_alone() -> None:
    gc.disable()
    try:
        with wire._uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
