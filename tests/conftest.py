"""Same examples every time, so that CI fails only for a reason; no process outlives its tests."""

import pytest
from hypothesis import HealthCheck, settings

from tests import or_tools

settings.register_profile(
    "fixed",
    derandomize=True,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("fixed")


@pytest.fixture(scope="module", autouse=True)
def no_process_of_or_tools_is_left():
    """Tests of later files count processes."""
    yield
    or_tools.end()
