"""A plugin of pytest: each check of the kit as a test case of its own.

pytest finds it by itself where botsessions is installed. A test that asks for the
fixture ``conformance_check`` is run once for each check, and calls it with ``make``:

    def test_my_backend(conformance_check, tmp_path):
        conformance_check(lambda: MyBackend(tmp_path / "test.db"))

A failed check fails the test and says what led to it; one that the backend does not
support is skipped. Each check runs on a thread and an event loop of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from botsessions.conformance.run import Check
    from botsessions.conformance.subject import Make

_NAME = "conformance_check"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for it once for each check."""
    if _NAME in metafunc.fixturenames:
        # Not before: whoever has no use for the kit does not pay for it.
        from botsessions.conformance.run import CHECKS  # noqa: PLC0415

        checks = {check.name: check for check in CHECKS}
        metafunc.parametrize(_NAME, checks.values(), ids=checks, indirect=True)


@pytest.fixture
def conformance_check(request: pytest.FixtureRequest) -> Callable[[Make], None]:
    """Return what carries out one check of the kit on the backends of a ``make``."""
    check: Check = request.param

    def carry_out(make: Make) -> None:
        __tracebackhide__ = True
        from botsessions.conformance.results import Status  # noqa: PLC0415

        result = check.run(make)
        if result.status is Status.NOT_SUPPORTED:
            pytest.skip(result.message)
        if result.status is Status.FAILED:
            # With a traceback only if that of the backend's error comes with it.
            failed = pytest.fail.Exception(
                str(result), pytrace=result.error is not None
            )
            raise failed from result.error

    return carry_out
