"""Random small problems for hypothesis; many are infeasible on purpose."""

import torch
from hypothesis import assume
from hypothesis import strategies as st

import lp_routing as lpr

INF = float("inf")


@st.composite
def score_matrices(draw, max_tokens=6, max_experts=4, forbid=True):
    """(T, E) float64 multiples of 1/4 from -2 to 4: many ties, dyadic, some pairs forbidden."""
    T, E = draw(st.integers(1, max_tokens)), draw(st.integers(1, max_experts))
    quarter = st.integers(-8, 16).map(lambda n: n / 4)
    entry = st.one_of(quarter, quarter, quarter, st.just(-INF)) if forbid else quarter
    rows = draw(st.lists(st.lists(entry, min_size=E, max_size=E), min_size=T, max_size=T))
    return torch.tensor(rows, dtype=torch.float64)


@st.composite
def bounds(draw, most):
    """Any of the four words, with whole numbers up to `most`."""
    low, high = sorted([draw(st.integers(0, most)), draw(st.integers(0, most))])
    return draw(
        st.sampled_from(
            [lpr.exactly(low), lpr.at_most(high), lpr.at_least(low), lpr.between(low, high)]
        )
    )


@st.composite
def problems(draw, groups=True):
    """Problems with any constraints, integral, often infeasible."""
    scores = draw(score_matrices())
    T, E = scores.shape
    stated = {}
    if draw(st.booleans()):
        stated["tokens"] = draw(bounds(min(E, 3)))
    if draw(st.booleans()):
        stated["experts"] = draw(bounds(T))
    if draw(st.booleans()):
        stated["total"] = draw(bounds(T * E))
    if groups and draw(st.booleans()):
        labels = draw(st.lists(st.integers(0, 1), min_size=T, max_size=T))
        stated["token_groups"] = lpr.groups_by(labels, draw(bounds(2 * T)))
    if groups and draw(st.booleans()):
        labels = draw(st.lists(st.integers(0, 1), min_size=E, max_size=E))
        stated["expert_groups"] = lpr.groups_by(labels, draw(bounds(2 * T)))
    if draw(st.integers(0, 3)) == 0:
        stated["multiplicity"] = draw(st.lists(st.integers(1, 3), min_size=T, max_size=T))
    try:
        return lpr.RoutingProblem(scores, **stated)
    except lpr.InputError:  # a token that must be served and may go nowhere
        assume(False)


@st.composite
def prices_for(draw, problem):
    """Any prices at all, dyadic or not."""
    number = st.floats(-4, 4, allow_nan=False, width=32)

    def some(count):
        return torch.tensor(draw(st.lists(number, min_size=count, max_size=count))).double()

    token_groups, expert_groups = (
        problem.family("token_group"),
        problem.family("expert_group"),
    )
    return lpr.Prices(
        experts=some(problem.E),
        total=float(draw(number)),
        token_groups=None if token_groups is None else some(len(token_groups)),
        expert_groups=None if expert_groups is None else some(len(expert_groups)),
    )
