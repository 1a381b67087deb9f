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


LONGEST = ("test_contributing.py", "test_docs.py", "test_notebooks.py", "test_readme.py")
"""Files of one to three minutes: they go first, so that no process is left alone with one."""


def pytest_collection_modifyitems(items):
    """Long files first, the others in the order of their names."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
