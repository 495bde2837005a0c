"""The kit over every place: each check passes, or asks for what the place has not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from botsessions import Backend, SupportsListing, SupportsLoadingNow, SupportsSweeping
from botsessions.backend import SupportsInline
from botsessions.conformance import CHECKS, Check, SetsClock, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.places import Place

ABILITIES = {
    "list_pages": SupportsListing,
    "sweep": SupportsSweeping,
    "load_now": SupportsLoadingNow,
    "attach, detach and now": SupportsInline,
}


class Make:
    """What makes the backends of a place, here and in other processes."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def __call__(self) -> Backend:
        return self._place.backend()

    def set_clock(self, seconds: float) -> None:
        self._place.clock.now = seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return _same, (self._place.elsewhere(),)


def _same(make: Callable[[], Backend]) -> Callable[[], Backend]:
    return make


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_place_keeps_the_contract(place: Place, check: Check) -> None:
    make = Make(place)
    assert isinstance(make, SetsClock)
    result = check.run(make)
    assert result.status is not Status.FAILED, str(result)
    if result.status is Status.NOT_SUPPORTED:
        lacks = result.message.removeprefix("it has no ")
        if lacks in ABILITIES:
            assert not isinstance(place.backend(), ABILITIES[lacks])
        else:
            # Memory is the one place that other processes cannot get to.
            assert result.message.startswith("make cannot be sent to a process")
            with pytest.raises(NotImplementedError):
                place.elsewhere()
