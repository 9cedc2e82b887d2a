"""Here `clock` is the kit's; elsewhere in this suite it is one that only stands still."""

import pytest

from keepalive.testing import VirtualClock


@pytest.fixture
def clock(keepalive_clock: VirtualClock) -> VirtualClock:
    return keepalive_clock
