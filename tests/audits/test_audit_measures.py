"""Audits that change the logits: ties, precision, scale; feasibility; and all of them together."""

import json
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.audits import (
    FORMATS,
    WAYS,
    AuditedRouter,
    audit,
    feasibility,
    margins,
    precision,
    scale,
    ties,
)
from lp_routing.audits.precision import rounded
from lp_routing.audits.scale import FORBIDS
from lp_routing.audits.ties import states_a_rule, without_ties
from lp_routing.routers import ExpertChoice, TopK, Unified

NEVER = float("-inf")
NAN = float("nan")
normal = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))


# ties


def test_a_tie_within_a_token_is_found_with_the_rule_that_decides_it():
    # Token 0 likes experts 0 and 1 alike; the reverse order makes expert 1 the lower one.
    finding = ties(TopK(1, score="logits"), torch.tensor([[1.0, 1.0, 0.0], [2.0, 1.0, 0.0]]))
    assert (finding.verdict, finding.count, finding.of) == ("fails", 1, 2)
    assert finding.numbers == {
        "experts": 0.5,
        "tokens": 0,
        "row ties": 0.5,
        "lower index": 1,
        "stated": 1,
    }
    assert finding.sentence == (
        "1 of 2 tokens changes experts with the order of experts or tokens (50 %): token 0 goes to "
        "expert 0 as they stand, to expert 1 with the experts in another order. In 1 of 1 ties "
        "within a token the lower expert is taken. Its documentation has a word on ties."
    )


def test_a_tie_between_tokens_is_found_by_their_order():
    # Each expert has one place, and both tokens like it alike: token 0 has both, or token 1.
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    finding = ties(ExpertChoice(1, score="logits"), logits)
    assert (finding.count, finding.numbers["experts"], finding.numbers["tokens"]) == (2, 0, 1)
    assert (finding.example.before, finding.example.after) == ((0, 1), ())


def test_a_tie_that_only_the_scores_make_is_found():
    # The softmax of (200, 50, 60, 0) is (1, 0, 0, 0): the second choice is decided by a tie.
    finding = ties(TopK(2), torch.tensor([[200.0, 50.0, 60.0, 0.0]]))
    assert (finding.verdict, finding.numbers["row ties"]) == ("fails", 0)
    assert (
        ties(TopK(2, score="logits"), torch.tensor([[200.0, 50.0, 60.0, 0.0]])).verdict == "holds"
    )


def by_torch(logits):
    return torch.topk(logits, 1)


def test_a_router_that_leaves_ties_to_torch_is_caught():
    finding = ties(by_torch, torch.zeros(6, 4))
    assert (finding.share, finding.numbers["stated"]) == (1, 0)
    assert finding.sentence.endswith("Its documentation has no word on ties.")


def takes_the_higher(logits):
    return logits.shape[-1] - 1 - logits.flip(-1).argmax(-1, keepdim=True)


def test_the_other_rule_is_told_from_the_lower_index():
    finding = ties(takes_the_higher, torch.zeros(6, 4))
    assert (finding.share, finding.numbers["lower index"]) == (1, 0)
    assert "In 0 of 6 ties within a token the lower expert is taken." in finding.sentence


def test_places_by_position_are_no_ties():
    finding = ties(TopK(2, 2, "position", "token"), normal)
    assert (finding.verdict, finding.numbers["experts"]) == ("holds", 0)
    assert "tokens" not in finding.numbers
    assert "in another order of tokens it chooses otherwise without any tie" in finding.sentence
    by_index = ties(lambda logits: torch.arange(len(logits))[:, None] % 2, normal)
    assert by_index.verdict == "not asked"


@pytest.mark.parametrize("router", [TopK(2), TopK(2, 6), ExpertChoice(8), Unified(2)])
@pytest.mark.parametrize("logits", [normal, normal.view(3, 8, 6)])
def test_logits_without_ties_have_none(router, logits):
    if logits.ndim == 3 and isinstance(router, TopK) and router.capacity:
        router = TopK(2, 3)
    finding = ties(router, logits)
    assert finding.verdict == "holds"
    assert set(finding.numbers) == {"experts", "tokens", "row ties", "stated"}


quarters = st.lists(
    st.lists(st.sampled_from([NEVER, 0.0, 1.0, 2.0]), min_size=4, max_size=4),
    min_size=1,
    max_size=5,
)


@settings(max_examples=20)
@given(table=quarters, k=st.integers(1, 3))
def test_token_choice_is_decided_by_a_tie_exactly_where_the_next_logit_is_equal(table, k):
    logits = torch.tensor(table)
    ordered = logits.sort(-1, descending=True).values
    tied = (ordered[:, k - 1] == ordered[:, k]) & ordered[:, k].isfinite()
    finding = ties(TopK(k, score="logits"), logits)
    assert finding.count == int(tied.sum())
    assert finding.numbers["row ties"] == pytest.approx(float(tied.float().mean()))
    assert finding.numbers.get("lower index", 1) == 1


def test_the_control_has_no_ties_within_a_token_even_in_bfloat16():
    logits = torch.zeros(40, 64).masked_fill(torch.eye(40, 64) > 0, NEVER)
    control = without_ties(logits)
    assert torch.equal(control == NEVER, logits == NEVER)
    ordered = control.bfloat16().float().sort(-1).values[:, 1:]
    assert bool((ordered.diff(dim=-1) > 0).all())
    assert len(control[control > NEVER].unique()) == 40 * 63


class Higher(Unified):
    """The last of equal pairs."""


def test_what_another_package_says_of_ties_is_not_a_routers_own_word():
    assert states_a_rule(Unified(1))  # its base class's, of the same package
    assert not states_a_rule(Higher(1))


def test_documentation_is_searched_for_a_word_on_ties():
    def stated(logits):
        """Equal scores: tied pairs go to the lower expert."""

    def not_stated(logits):
        """Properties: entities are put where a necktie would."""

    assert [states_a_rule(r) for r in (TopK(1), stated, not_stated, by_torch)] == [
        True,
        True,
        False,
        False,
    ]


# precision: bfloat16 has steps of 1/128 between 1 and 2, float16 of 1/1024. So 1 and 1 + 1/512 are
# one number in the former, and expert 0, the lower one, is taken.
CLOSE = torch.tensor([[1.0, 1 + 1 / 512], [2.0, 1.0]])


@pytest.mark.parametrize(
    ("name", "count"), [("bf16", 1), ("fp16", 0), ("fp8 e4m3", 1), ("fp8 e5m2", 1)]
)
def test_a_margin_below_the_step_of_the_format_is_lost(name, count):
    finding = precision(TopK(1, score="logits"), CLOSE, rounded_to=name)
    assert (finding.audit, finding.count, finding.of) == (f"precision: {name}", count, 2)
    if count:
        assert finding.numbers["margin of those that changed, 50 %"] == 1 / 512
        assert finding.numbers["margin of those that stayed, 50 %"] == 1
        assert finding.sentence == (
            f"1 of 2 tokens changes experts when logits are rounded to {name} (50 %): token 0 goes "
            f"to expert 1 as it is, to expert 0 in {name}. The median margin of those that change "
            f"is 0.00195, of those that stay 1."
        )


@pytest.mark.parametrize("name", FORMATS)
def test_only_tokens_with_a_margin_below_twice_the_error_change(name):
    logits = 4 * torch.randn(20_000, 8, generator=torch.Generator().manual_seed(1))
    error = float((rounded(logits, FORMATS[name]) - logits).abs().max())
    finding = precision(TopK(2, score="logits"), logits, rounded_to=name)
    assert 0 < finding.share < 0.5
    assert finding.numbers["margin of those that changed, 90 %"] <= 2 * error
    changed = finding.numbers["margin of those that changed, 50 %"]
    assert changed < finding.numbers["margin of those that stayed, 50 %"]


def test_rounding_cuts_what_is_too_large_and_keeps_what_is_forbidden():
    given = torch.tensor([[1000.0, -1000.0, NEVER, 0.3]])
    assert rounded(given, torch.float8_e4m3fn).tolist() == [[448, -448, NEVER, 0.3125]]
    beyond = torch.tensor([[1e5, -1e5, NEVER, 1.0]])
    assert rounded(beyond, torch.float16).tolist() == [[65504, -65504, NEVER, 1]]
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert rounded(given.to(dtype), torch.float8_e4m3fn)[0, 3] == 0.3125
        assert precision(TopK(1), given.to(dtype)).verdict == "holds"


def test_margins_are_those_of_as_many_experts_as_a_token_has():
    logits = torch.tensor([[5.0, 3.0, 2.0], [5.0, 3.0, 2.0], [5.0, 3.0, NEVER], [5.0, 3.0, 2.0]])
    taken = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0]]).bool()
    assert margins(logits, taken).tolist() == [2, 1, float("inf"), float("inf")]


# scale


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("logits", [normal, normal.view(3, 8, 6), normal.half()])
def test_token_choice_by_logits_passes_in_every_way(way, logits):
    finding = scale(TopK(2, score="logits"), logits, way=way)
    assert (finding.audit, finding.verdict, finding.of) == (f"scale: {way}", "holds", 24)


def test_a_softmax_that_underflows_changes_second_choices():
    # 60 times a gap of 2 is exp(-120), which float32 has not: experts 1 and 2 tie.
    finding = scale(TopK(2), torch.tensor([[4.0, 1.0, 2.0]]))
    assert (finding.example.before, finding.example.after) == ((0, 2), (0, 1))


def test_a_sigmoid_saturates_on_an_offset_that_a_softmax_does_not_feel():
    logits = torch.tensor([[0.0, 1.0]])
    assert scale(TopK(1, score="sigmoid"), logits, way="plus 1000").verdict == "fails"
    assert scale(TopK(1, score="sigmoid"), logits, way="minus 1000").verdict == "fails"
    assert scale(TopK(1), logits, way="plus 1000").verdict == "holds"
    assert scale(TopK(1), logits, way="minus 1000").verdict == "holds"


# The story of claim B10: each token has one expert; 4 less for token 1 and both go to token 2.
def test_a_shift_per_token_changes_who_a_sigmoid_serves():
    logits = torch.tensor([[0.0, 0.2], [0.0, 0.0]]).repeat(8, 1)
    way = "shifted per token"
    assert scale(Unified(1), logits, way=way).verdict == "fails"
    assert scale(Unified(1, rate=0.0), logits, way=way).verdict == "holds"
    assert scale(TopK(1, score="sigmoid"), logits, way=way).verdict == "holds"


def naive_softmax(logits):
    share = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return (share == share.amax(-1, keepdim=True)) + 0 * share


def test_a_map_of_nan_is_caught():
    assert naive_softmax(normal).isfinite().all()
    finding = scale(naive_softmax, 3 * normal)
    assert (finding.verdict, finding.count, finding.share) == ("fails", None, None)
    assert finding.sentence.startswith("No answer on logits times 60: its map holds nan at [")


def test_the_expert_that_is_forbidden_is_the_most_used_one():
    chosen = torch.tensor([[0, 1, 0], [1, 1, 0], [0, 1, 1]]).bool()
    forbidden = FORBIDS["-inf expert"](chosen)
    assert forbidden.tolist() == [[False, True, False]] * 3


def test_a_router_that_never_returns_is_given_up():
    released = threading.Event()

    def balances_for_ever(logits):
        if logits.abs().max() > 50:
            released.wait()
        return torch.topk(logits, 1)

    finding = scale(AuditedRouter(balances_for_ever, limit_s=0.05), normal)
    released.set()
    assert finding.verdict == "fails"
    assert finding.sentence == "No answer on logits times 60: it did not return in 0.05 s."


def forgets_what_is_forbidden(logits):
    return torch.topk(logits.nan_to_num(neginf=100.0), 2)


@pytest.mark.parametrize("way", ["-inf entries", "-inf expert", "-inf token"])
def test_a_router_that_takes_forbidden_pairs_is_caught(way):
    finding = scale(forgets_what_is_forbidden, normal, way=way)
    assert finding.count == (1 if way == "-inf token" else 24)
    assert "an expert whose score is -inf" in finding.sentence
    assert scale(lambda x: torch.topk(x, 2), normal, way=way).count == (way == "-inf token")


def test_an_error_on_forbidden_pairs_is_caught():
    def refuses(logits):
        if logits.isinf().any():
            raise ValueError("no infinity")
        return torch.topk(logits, 1)

    finding = scale(refuses, normal, way="-inf expert")
    assert finding.sentence == "No answer with -inf expert: it raised ValueError: no infinity."


def test_so_few_pairs_are_forbidden_that_all_tokens_can_be_served():
    seen = []

    def spy(logits):
        seen.append(logits)
        return torch.topk(logits, 5)

    assert scale(spy, normal, way="-inf entries").verdict == "holds"
    assert (seen[1] == NEVER).sum(-1).tolist() == [1] * 24
    assert scale(TopK(6), normal, way="-inf expert").sentence == (
        "Not asked: its tokens have 6 of 6 experts, so none can be forbidden."
    )


def test_logits_that_overflow_when_multiplied_are_not_asked():
    finding = scale(TopK(1), torch.tensor([[2000.0, 1.0]], dtype=torch.float16))
    assert finding.sentence == "Not asked: logits times 60 do not fit torch.float16."


# feasibility: all three tokens like expert 0 best; it has two places.
CROWD = torch.tensor([[2.0, 1.0], [3.0, 1.0], [4.0, 1.0]])


def test_a_capacity_that_is_not_kept_is_named_with_its_excess():
    problem = lpr.RoutingProblem(CROWD, experts=lpr.at_most(2))
    finding = feasibility(TopK(1), CROWD, problem)
    assert (finding.verdict, finding.count, finding.of) == ("fails", 1, 2)
    assert finding.sentence == ("1 of 2 bounds is broken; by most: expert_0 counts 3, at most 2.")
    assert finding.numbers == {"worst": 1}
    kept = feasibility(TopK(1, 2), CROWD, problem)
    assert (kept.verdict, kept.sentence) == ("holds", "None of 2 bounds is broken.")


def test_dropped_tokens_and_forbidden_pairs_break_bounds():
    must = lpr.RoutingProblem(CROWD, tokens=lpr.exactly(1))
    assert "token_0 counts 0, at least 1" in feasibility(TopK(1, 2), CROWD, must).sentence
    forbidden = torch.tensor([[NEVER, 1.0], [1.0, 2.0]])
    free = lpr.RoutingProblem(forbidden, experts=lpr.at_most(2))
    first = torch.tensor([[True, False], [True, False]])
    finding = feasibility(lambda logits: first, forbidden, free)
    assert (finding.count, finding.of) == (1, 3)
    assert "score -inf forbids the pair" in finding.sentence


def test_of_several_broken_bounds_the_worst_is_told():
    # All three tokens go to expert 0, which takes one: 2 too many. Expert 1 lacks one.
    problem = lpr.RoutingProblem(CROWD, experts=lpr.between([0, 1], [1, 3]))
    finding = feasibility(TopK(1), CROWD, problem)
    assert (finding.count, finding.numbers) == (2, {"worst": 2})
    assert "by most: expert_0 counts 3, at most 1" in finding.sentence


def test_feasibility_wants_a_problem_of_the_same_shape():
    assert feasibility(TopK(1), CROWD, None).sentence == "Not asked: no problem was given."
    problem = lpr.problems.token_choice(CROWD, 1)
    with pytest.raises(lpr.InputError, match=r"scores have shape \(3, 2\) and the logits \(2, 2\)"):
        feasibility(TopK(1), CROWD[:2], problem)
    with pytest.raises(lpr.InputError, match="expected a RoutingProblem, got str"):
        feasibility(TopK(1), CROWD, "capacity")
    assert feasibility(lambda _: None, CROWD, problem).verdict == "not asked"


# all together

NAMES = [
    "repeatable",
    "causality",
    "batch invariance",
    "prefill against decode",
    "ties",
    *(f"precision: {name}" for name in FORMATS),
    *(f"scale: {way}" for way in WAYS),
    "feasibility",
]


def known(findings):
    """The audits that are in the list above; others may have been added beside them."""
    return [finding.audit for finding in findings if finding.audit in NAMES]


def test_all_audits_of_token_choice():
    problem = lpr.problems.token_choice(normal, 2)
    findings = audit(TopK(2, score="logits"), normal, problem=problem)
    assert known(findings) == NAMES
    assert {f.verdict for f in findings if not f.audit.startswith("precision")} == {"holds"}
    assert len({finding.question for finding in findings}) == len(findings)


def test_findings_are_json():
    for finding in audit(Unified(2), normal.view(2, 12, 6)):
        content = json.loads(json.dumps(finding.as_json(), allow_nan=False))
        assert content["share"] == finding.share
        assert content["verdict"] in ("holds", "fails", "not asked")
        if finding.example is not None:
            assert tuple(content["example"]["before"]) == finding.example.before


def test_a_router_with_a_state_is_called_cold():
    class Learns:
        def __call__(self, logits, state=0):
            assert state == 0
            return TopK(1)(logits), state + 1

    verdicts = [f.verdict for f in audit(Learns(), normal) if f.audit in NAMES[:5]]
    assert verdicts == ["holds"] * 5


def test_a_random_router_is_audited_with_its_seed_held():
    def noisy(logits):
        return torch.topk(logits + torch.randn(logits.shape[-1]), 2)

    first, second, *_ = audit(noisy, normal)
    assert (first.audit, first.verdict) == ("repeatable", "fails")
    assert (second.audit, second.verdict) == ("causality", "holds")


def test_nothing_else_is_asked_of_a_router_that_gives_no_answer_or_never_the_same():
    released, calls = threading.Event(), []

    def counts(logits):
        calls.append(1)
        return torch.full((len(logits), 1), len(calls) % 3)

    for router, why in (
        (lambda _: released.wait(), "the router gives no answer on the logits as they are"),
        (lambda logits: logits * NAN, "the router gives no answer on the logits as they are"),
        (counts, "the same input gives other experts each time"),
    ):
        first, *others = audit(
            router, normal, problem=lpr.problems.token_choice(normal, 1), limit_s=0.05
        )
        assert first.verdict == "fails"
        assert {finding.sentence for finding in others} == {f"Not asked: {why}."}
        assert known(others) == NAMES[1:]
    released.set()
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: precision(TopK(1), normal, rounded_to="int4"),
            "rounded_to='int4': expected \"bf16\" or",
        ),
        (lambda: scale(TopK(1), normal, way="up"), "way='up': expected one of times 60, plus 1000"),
        (lambda: ties(TopK(1), normal, orders=0), "orders=0: it must be at least 1"),
        (lambda: audit(None, normal), "router: expected a callable"),
        (lambda: audit(TopK(1), normal, limit_s=-1), "limit_s=-1: expected a number of seconds"),
    ],
)
def test_options_that_make_no_sense_are_refused(call, says):
    with pytest.raises(lpr.InputError, match=says):
        call()
