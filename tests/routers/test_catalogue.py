"""The registry of routers: its order, names that are taken, classes without a name."""

import re

import pytest

import lp_routing as lpr
from lp_routing.routers import (
    CATALOGUE,
    GroupLimited,
    RandomSecond,
    Shape,
    TopK,
    Unified,
    ZeroComputation,
    router,
)
from lp_routing.routers.catalogue import FORMER_NAMES, REGISTERED, register


def test_the_catalogue_holds_all_rows_in_the_order_of_the_imports():
    assert [name for entry in REGISTERED for name in entry.rows] == list(CATALOGUE)
    assert next(iter(CATALOGUE)) == "token-choice"


def test_a_name_that_is_taken_is_refused_and_changes_nothing():
    before, rows = list(REGISTERED), dict(CATALOGUE)
    with pytest.raises(lpr.InputError, match=r"router 'token-choice' is registered twice"):
        register(
            "Token choice",
            {"another": CATALOGUE["token-choice"], "token-choice": CATALOGUE["token-choice"]},
        )
    assert (before, rows) == (REGISTERED, CATALOGUE)


def test_a_class_without_rows_is_registered_and_has_no_name():
    (entry,) = [entry for entry in REGISTERED if entry.kind is ZeroComputation]
    assert not entry.rows


def test_names_are_slugs():
    assert [name for name in CATALOGUE if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)] == []


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("gshard", RandomSecond(7)),
        ("switch", TopK(1, 7, "position")),
        ("deepseek-v2", GroupLimited(2, groups=8, top_groups=3)),
        ("deepseek-v3", GroupLimited(2, 8, 4, "top2", score="sigmoid", normalise="kept")),
        ("unified-probability", Unified(2, rate=0.0)),
        ("unified-usmoe", Unified(2)),
    ],
)
def test_presets_are_what_their_sources_state(name, preset):
    assert repr(router(name, Shape(k=2, capacity=7, T=20, E=16))) == repr(preset)


def test_unified_by_probability_takes_the_best_softmax_scores():
    logits = lpr.traces.sample().layer(0)[:40]
    shape = Shape(k=2, capacity=9, T=40, E=32)
    best = router("unified-probability", shape)(logits)
    problem = lpr.problems.unified(lpr.scores.softmax(logits), 80)
    assert lpr.certify(problem, best, lpr.solve(problem).prices).relative_gap < 1e-12
    other = router("unified-usmoe", shape)(logits)
    assert lpr.certify(problem, other, lpr.solve(problem).prices).relative_gap > 1e-4


@pytest.mark.parametrize("former", FORMER_NAMES)
def test_a_former_name_says_what_is_new(former):
    now = FORMER_NAMES[former]
    assert now in CATALOGUE
    with pytest.raises(lpr.InputError, match=f"router {former!r} is now called {now!r}"):
        router(former, Shape(k=1, capacity=1, T=4, E=4))
