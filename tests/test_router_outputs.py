"""What routers return, in every form: the same choice, or a sentence; a shape is never guessed."""

import numpy as np
import pytest
import torch

import lp_routing as lpr
from lp_routing.audits import audit, causality, feasibility, repeatable
from lp_routing.errors import InputError
from lp_routing.router_outputs import NoRouterOutput, as_choice_mask, read_output
from lp_routing.routers import TopK, assignment_from

NEVER = float("-inf")
LOGITS = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0], [1.0, 0.0, 2.0], [2.0, 3.0, 0.0]])
MAP = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0]]).bool()
WEIGHTS = MAP * torch.tensor([[0.75], [0.5], [0.25], [0.5]])
# expert 0 holds tokens 0, 2, 3; expert 1 tokens 1, 3; expert 2 tokens 0, 1, 2
OF_EXPERTS = torch.tensor([[0, 2, 3, -1], [1, 3, -1, -1], [2, 1, 0, -1]])
DISPATCH = torch.zeros(4, 3, 5)
for expert, slots in enumerate(OF_EXPERTS.tolist()):
    for slot, token in enumerate(slots):
        if token >= 0:
            DISPATCH[token, expert, slot] = 1
SQUARE = LOGITS[:3]
PROBLEM = lpr.problems.token_choice(LOGITS, 2)


@pytest.mark.parametrize(
    ("answer", "layout"),
    [
        (WEIGHTS, "TE"),
        (WEIGHTS.numpy(), "TE"),
        (WEIGHTS * 2.5, "TE"),
        (OF_EXPERTS, "EC"),
        (OF_EXPERTS.numpy().astype(np.int32), "EC"),
        ((torch.rand(3, 4), OF_EXPERTS), "EC"),
        (DISPATCH.bool(), "TEC"),
        (DISPATCH.int(), "TEC"),
        (DISPATCH, "TEC"),
        (DISPATCH * 0.3, "TEC"),
        ((torch.tensor(0.1), DISPATCH * 0.3, DISPATCH.bool(), torch.tensor([3, 2, 3])), "TEC"),
        ((torch.tensor(0.1), DISPATCH * 0.3), "TEC"),
        ((WEIGHTS, torch.tensor(0.1)), "TE"),
    ],
)
def test_weights_token_indices_and_dispatch_tensors_are_read_as_the_map(answer, layout):
    read = read_output(answer, LOGITS)
    assert torch.equal(read.amounts == 1, MAP)
    assert read.layout == layout
    assert torch.equal(as_choice_mask(answer, LOGITS), MAP)
    certificate = lpr.certify(PROBLEM, answer, lpr.Prices())
    assert certificate.value == float(LOGITS[MAP].sum())
    assert certificate.note == read.note


def test_a_batch_of_sequences_is_read_as_each_of_them():
    logits = torch.stack([LOGITS, LOGITS.flip(0)])
    other = torch.where(OF_EXPERTS >= 0, 3 - OF_EXPERTS, -1)
    tokens, dispatch = torch.stack([OF_EXPERTS, other]), torch.stack([DISPATCH, DISPATCH.flip(0)])
    for answer in (tokens, dispatch):
        assert torch.equal(as_choice_mask(answer, logits), torch.stack([MAP, MAP.flip(0)]))


def test_only_weights_earn_a_note():
    for answer in (MAP, MAP.float(), OF_EXPERTS, DISPATCH, lpr.Assignment(WEIGHTS)):
        assert read_output(answer, LOGITS).note == ""
    for answer in (WEIGHTS, DISPATCH * 0.3):
        assert "(2 expert(s) a token)" in read_output(answer, LOGITS).note


def test_a_softmax_over_the_allowed_experts_is_no_choice():
    # Its zeros are the forbidden pairs: it leaves out none that it might have taken.
    logits = LOGITS.clone()
    logits[:, 2] = NEVER
    with pytest.raises(NoRouterOutput, match="a fraction, and leaves out no pair"):
        read_output(logits.softmax(-1), logits)
    # Where most tokens leave out an allowed expert too, they are weights.
    weights = logits.softmax(-1) * torch.tensor([[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]])
    assert read_output(weights, logits).amounts.sum(1).tolist() == [1, 1, 1, 2]


def test_the_weights_of_an_assignment_count_as_its_choices():
    taken = TopK(2)(LOGITS)
    certificate = lpr.certify(PROBLEM, taken.weights, lpr.Prices())
    assert certificate.value == lpr.certify(PROBLEM, taken, lpr.Prices()).value == 22.0
    assert not certificate.violations
    assert "read as combine weights" in certificate.note
    assert lpr.certify(PROBLEM, taken, lpr.Prices()).note == ""


def test_amounts_that_are_fractions_must_be_asked_for():
    thirds = torch.full((4, 3), 2 / 3, dtype=torch.float64)
    softmax = LOGITS.masked_fill(LOGITS == 5, NEVER).softmax(-1)  # 0 where a pair is forbidden
    for dense, logits in ((thirds, LOGITS), (softmax, LOGITS.masked_fill(LOGITS == 5, NEVER))):
        with pytest.raises(NoRouterOutput, match=r"a fraction, .* or, .* Assignment\(amounts\)"):
            read_output(dense, logits)
    with pytest.raises(InputError, match=r"^assignment: it holds 0.666667 at \[0, 0\], a fraction"):
        lpr.certify(PROBLEM, thirds, lpr.Prices())
    with pytest.raises(NoRouterOutput, match="a fraction"):
        read_output(WEIGHTS - 0.125, LOGITS)
    for asked in (lpr.Assignment(thirds), assignment_from(thirds, LOGITS, "TE")):
        assert lpr.certify(PROBLEM, asked, lpr.Prices()).value == pytest.approx(2 / 3 * 23)


@pytest.mark.parametrize(
    ("answer", "layout", "says"),
    [
        (OF_EXPERTS + 1, "", r"names token 4 of 4 at \[0, 2\]"),
        (torch.zeros(3, 2).long(), "", r"names token 0 twice for expert \[0\]"),
        (DISPATCH.sum(-1, keepdim=True), "", r"slot 0 of expert 0 holds 3 tokens .* one at most"),
        (torch.cat([DISPATCH, DISPATCH], -1), "", r"token 0 fills several slots of expert 0"),
        (-DISPATCH, "", "NaN or numbers below 0"),
        (DISPATCH * float("nan"), "", "NaN or numbers below 0"),
        (DISPATCH.transpose(0, 1), "", r"shape \(3, 4, 5\) for logits of shape \(4, 3\)"),
        (MAP, "EC", r"torch.bool of shape \(4, 3\) .*; expected token indices \(\.\.\., E, C\)$"),
        (OF_EXPERTS, "TK", r"shape \(3, 4\) .*; expected expert indices"),
        (OF_EXPERTS, "TE", "expected amounts of the shape of the logits"),
        (MAP, "TEC", "expected a dispatch tensor"),
    ],
)
def test_what_has_another_form_is_refused_in_words(answer, layout, says):
    with pytest.raises(NoRouterOutput, match=says):
        read_output(answer, LOGITS, layout=layout)


def test_with_as_many_tokens_as_experts_one_says_which():
    indices = torch.tensor([[0], [0], [1]])
    of_tokens = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 1, 0]]).bool()
    for answer in (indices, (torch.rand(3, 1), indices)):
        with pytest.raises(NoRouterOutput, match=r"T = E = 3, .* say which: assignment_from"):
            read_output(answer, SQUARE)
    assert torch.equal(assignment_from(indices, SQUARE, "TK").x, of_tokens)
    assert torch.equal(assignment_from(indices, SQUARE, "EC").x, of_tokens.T)
    problem = lpr.problems.token_choice(SQUARE, 1)
    with pytest.raises(InputError, match=r"^assignment: got whole numbers .* say which"):
        lpr.certify(problem, indices, lpr.Prices())
    for layout, value in (("TK", 3 + 0 + 0), ("EC", 3 + 1 + 4)):
        asked = assignment_from(indices, SQUARE, layout)
        assert lpr.certify(problem, asked, lpr.Prices()).value == value
    dispatch = of_tokens.float()[..., None] * torch.tensor([[[1.0, 0]], [[0, 1]], [[1, 0]]])
    with pytest.raises(NoRouterOutput, match=r"shape \(3, 3, 2\), and T = E = 3.*'TEC'"):
        read_output(dispatch, SQUARE)
    assert torch.equal(assignment_from(dispatch, SQUARE, "TEC").x, of_tokens)
    for layout in ("ETC", 3):
        with pytest.raises(InputError, match=r"layout=.*expected \"TE\" or"):
            assignment_from(indices, SQUARE, layout)
    with pytest.raises(InputError, match="logits: expected a tensor"):
        assignment_from(indices, 3, "TK")


def top_2(logits):
    return torch.topk(logits, 2, dim=-1)


def test_audits_keep_to_the_form_that_a_router_was_seen_to_use():
    # of the 12 tokens some prefixes have as many as there are experts: 4
    logits = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    finding = causality(top_2, logits, cuts=12)
    assert (finding.verdict, finding.of) == ("holds", 11)
    square = repeatable(top_2, logits[:4])
    assert "say which" in square.sentence


def test_audits_note_how_weights_were_read():
    problem = lpr.RoutingProblem(LOGITS, experts=lpr.at_most(3))
    findings = audit(lambda logits: TopK(2)(logits).weights, LOGITS, problem=problem)
    assert "read as combine weights" in findings[0].note
    assert findings[-1].verdict == "holds"
    assert "read as combine weights" in findings[-1].note
    assert repeatable(TopK(2), LOGITS).note == ""


def broken(logits):
    raise RuntimeError("no such device")


def broken_alone(logits):
    return broken(logits) if len(logits) < 3 else TopK(1)(logits)


def test_audits_keep_the_traceback_of_the_router():
    findings = [
        repeatable(broken, LOGITS),
        causality(broken, LOGITS),
        feasibility(broken, LOGITS, PROBLEM),
        causality(broken_alone, LOGITS),
    ]
    for finding in findings:
        assert "in broken" in finding.traceback
        assert "RuntimeError: no such device" in finding.traceback
        assert "traceback" not in finding.as_json()
    assert repeatable(TopK(1), LOGITS).traceback == ""
    assert repeatable(lambda logits: None, LOGITS).traceback == ""  # nothing was raised
