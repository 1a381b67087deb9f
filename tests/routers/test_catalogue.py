"""The registry of routers: its order, names that are taken, classes without a name."""

import pytest

import lp_routing as lpr
from lp_routing.routers import CATALOGUE, ZeroComputation
from lp_routing.routers.catalogue import REGISTERED, register


def test_the_catalogue_holds_all_rows_in_the_order_of_the_imports():
    assert [name for entry in REGISTERED for name in entry.rows] == list(CATALOGUE)
    assert next(iter(CATALOGUE)) == "top-k"


def test_a_name_that_is_taken_is_refused_and_changes_nothing():
    before, rows = list(REGISTERED), dict(CATALOGUE)
    with pytest.raises(lpr.InputError, match=r"router 'top-k' is registered twice"):
        register("Token choice", {"another": CATALOGUE["top-k"], "top-k": CATALOGUE["top-k"]})
    assert (before, rows) == (REGISTERED, CATALOGUE)


def test_a_class_without_rows_is_registered_and_has_no_name():
    (entry,) = [entry for entry in REGISTERED if entry.kind is ZeroComputation]
    assert not entry.rows
