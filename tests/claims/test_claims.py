"""Laws that every claim keeps: complete, broken where it fails, hunted in vain where it holds."""

import json
import math
import re
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.claims import CLAIMS, Evidence, Verdict
from lp_routing.claims.claim import check_all, chosen

IDS = [claim.id for claim in CLAIMS]
EACH = pytest.mark.parametrize("claim", CLAIMS, ids=IDS)
FALSE = (Verdict.FAILS, Verdict.CONDITIONAL)


def test_all_claims_are_there_once():
    expected = [*(f"B{i}" for i in range(1, 10)), *(f"S{i}" for i in range(1, 9))]
    expected += [*(f"O{i}" for i in range(1, 10)), "O10a", "O10b", "O10c"]
    assert [name for name in IDS if name in expected] == expected
    assert len(set(IDS)) == len(IDS)


@EACH
def test_every_claim_is_complete(claim):
    for name in ("title", "statement", "formula", "source", "reason"):
        assert getattr(claim, name).strip(), name
    assert claim.statement.endswith(".")
    assert claim.reason.endswith(".")
    assert (claim.counterexample is not None) == (claim.refutes_statement is not None)
    if claim.verdict in FALSE:
        assert claim.counterexample is not None
        assert claim.counterexample.story
    if claim.verdict in (Verdict.HOLDS, Verdict.CONDITIONAL):
        assert claim.refutes_verdict is not None


@pytest.mark.parametrize("claim", [c for c in CLAIMS if c.refutes_statement], ids=lambda c: c.id)
def test_the_counterexample_breaks_the_claim(claim):
    assert claim.refutes_statement(claim.counterexample.tensor())


@EACH
def test_a_check_without_a_working_counterexample_does_not_agree(claim):
    if claim.refutes_statement is None:
        pytest.skip("the claim has no counterexample")
    logits = torch.randn(2, 32, 8, generator=torch.Generator().manual_seed(0))
    assert claim.check(logits).agrees is not False
    assert replace(claim, refutes_statement=lambda _: None).check(logits).agrees is False


whole = st.integers(0, 3)
SIZES = list(product(range(1, 5), range(1, 5)))


@st.composite
def matrices(draw):
    T, E = draw(st.sampled_from(SIZES))
    rows = draw(st.lists(st.lists(whole, min_size=E, max_size=E), min_size=T, max_size=T))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("claim", [c for c in CLAIMS if c.refutes_verdict], ids=lambda c: c.id)
def test_a_hunt_against_the_verdict_finds_nothing(claim):
    @given(matrices())
    @settings(max_examples=30)
    def hunt(scores):
        assert claim.refutes_verdict(scores) is None

    hunt()


BAD = {
    "nan": torch.tensor([[math.nan, 1.0]]),
    "inf": torch.tensor([[math.inf, 1.0]]),
    "all forbidden": torch.full((2, 3), -math.inf),
    "whole numbers": torch.ones(2, 2, dtype=torch.int64),
    "empty": torch.ones(0, 2),
    "vector": torch.ones(4),
    "list": [[1.0, 2.0]],
}


@pytest.mark.parametrize("logits", BAD.values(), ids=BAD)
def test_bad_logits_are_refused(logits):
    with pytest.raises(lpr.InputError, match="claims"):
        CLAIMS[0].check(logits, k=1)


@pytest.mark.parametrize("seed", [-1, 1.5, "x", 2**64])
def test_a_seed_that_no_generator_takes_is_refused(seed):
    with pytest.raises(lpr.InputError, match="seed"):
        CLAIMS[0].check(torch.ones(4, 2), k=1, seed=seed)


def test_more_experts_than_there_are_is_refused():
    with pytest.raises(lpr.InputError, match="k=3"):
        CLAIMS[0].check(torch.ones(4, 2), k=3)


@EACH
@pytest.mark.parametrize("shape", [(1, 2), (5, 3), (2, 6, 4)])
def test_small_logits_are_answered(claim, shape):
    evidence = claim.check(torch.randn(shape, generator=torch.Generator().manual_seed(1)), k=1)
    assert evidence.agrees is not False, evidence.sentence
    assert evidence.sentence.endswith(".")
    json.dumps(evidence.as_json(), allow_nan=False)


@EACH
def test_equal_logits_are_answered(claim):
    evidence = claim.check(torch.zeros(16, 8))
    assert evidence.agrees is not False, evidence.sentence
    json.dumps(evidence.as_json(), allow_nan=False)


@EACH
def test_forbidden_pairs_are_left_out_or_the_claim_says_why_not(claim):
    best = torch.randn(12, 3, generator=torch.Generator().manual_seed(4))
    logits = torch.full((12, 6), -math.inf)
    logits[:, ::2] = best  # experts 1, 3, 5 are recorded
    logits[6:] = logits[6:].roll(1, -1)  # of the later tokens 2, 4, 6
    evidence = claim.check(logits)
    if claim.forbidden_too:
        # as if they were there, and so low that nobody wants them
        assert evidence.agrees in (True, None)
        low = logits.clamp(min=-1e4)
        assert dict(evidence.numbers) == pytest.approx(dict(claim.check(low).numbers))
        assert evidence.sentence.startswith("With forbidden pairs (-inf, 50.0%) as pairs of score")
        assert "a token has 3 logits, fewer than k=4" in claim.check(logits, k=4).sentence
        return
    if not claim.rows_alone:
        assert evidence.agrees is None
        assert evidence.sentence.startswith("Does not apply here: 50.0% of the pairs are forbidden")
        return
    assert evidence.numbers == claim.check(best).numbers
    assert evidence.sentence.startswith("On the 3 logits of each token")
    assert "fewer than k=4" in claim.check(logits, k=4).sentence
    ragged = logits.clone()
    ragged[0, 0] = -math.inf
    assert claim.check(ragged).agrees is None
    assert "2 to 3 logits" in claim.check(ragged).sentence


HARD = {
    "equal, not zero": torch.ones(1, 33, 5),
    "huge": 1e4 * torch.randn(1, 48, 8, generator=torch.Generator().manual_seed(0)),
    "beyond float64": 1e30 * torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(1)),
    "one expert": torch.zeros(2, 1, 1),
    "one wanted by all": torch.randn(1, 32, 8, generator=torch.Generator().manual_seed(2))
    + 50 * torch.eye(8)[0],
    "bfloat16": torch.randn(1, 12, 4, generator=torch.Generator().manual_seed(3)).bfloat16(),
}


@EACH
@pytest.mark.parametrize("logits", HARD.values(), ids=HARD)
def test_hard_logits_are_answered(claim, logits):
    evidence = claim.check(logits, k=1)
    assert evidence.agrees is not False, evidence.sentence


def drawn(*shape, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


ROUNDED = {
    "hardly any difference": (drawn(3, 24, 12, seed=6, scale=1e-9), 4),
    "little difference": (drawn(1, 48, 8, seed=0, scale=1e-6), 2),
    "a small difference on a large offset": (100 + drawn(2, 2, 6, seed=7, scale=1e-8), 1),
    "saturated": (drawn(3, 35, 9, seed=1, scale=3).round() * 20, 2),
    "all but saturated": (drawn(1, 48, 8, seed=2, scale=50), 2),
}


@EACH
@pytest.mark.parametrize(("logits", "k"), ROUNDED.values(), ids=ROUNDED)
def test_rounding_is_no_evidence(claim, logits, k):
    evidence = claim.check(logits, k=k)
    assert evidence.agrees is not False, evidence.sentence
    assert " -0 " not in evidence.sentence


def test_numbers_that_json_lacks_are_null():
    evidence = Evidence(True, "It is so.", {"a": math.nan, "b": math.inf, "c": 1.5, "d": "x"})
    numbers = evidence.as_json()["numbers"]
    assert numbers == {"a": None, "b": None, "c": 1.5, "d": "x"}


def test_the_same_seed_gives_the_same_evidence():
    logits = torch.randn(24, 6, generator=torch.Generator().manual_seed(2))
    for claim in CLAIMS:
        assert claim.check(logits, seed=3) == claim.check(logits.clone(), seed=3)


def test_one_check_that_fails_does_not_lose_the_others():
    def raises(_):
        raise RuntimeError("too bad")

    broken = replace(CLAIMS[0], examine=raises)
    against = replace(CLAIMS[1], examine=lambda _: Evidence(False, "It is not so."))
    first, second, third = check_all([broken, against, CLAIMS[3]], torch.randn(8, 4))
    assert (first.comes_out, first.says) == (False, "The check failed: RuntimeError: too bad")
    assert (second.comes_out, second.says) == (False, "It is not so.")
    assert third.comes_out


def test_claims_are_chosen_by_id():
    assert [c.id for c in chosen(CLAIMS, ["b2, O10", "O1"])] == ["B2", "O1", "O10a", "O10b", "O10c"]
    assert chosen(CLAIMS, []) == list(CLAIMS)
    with pytest.raises(lpr.InputError, match=re.escape('"B99": there is no such claim')):
        chosen(CLAIMS, ["B1", "B99"])
