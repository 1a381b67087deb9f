"""Sentences of refusal that belong to no other test file: what was received, what to do."""

import numpy as np
import pytest
import torch

import lp_routing as lpr
from lp_routing.cli.options import parse_layers
from lp_routing.routers import CapacityFactor, TopK, Unified

LOGITS = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
WIDE_NAMES = [lpr.Group([0], lpr.at_most(1), "a b"), lpr.Group([1], lpr.at_most(1), "a_b")]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: parse_layers(",".join([]), 4), r'expected "all", "0,2" or "0-3"'),
        (lambda: parse_layers("2-1", 4), "--layers 2-1: this file has the layers 0 to 3"),
        (lambda: parse_layers("0,4", 4), "--layers 0,4: this file has the layers 0 to 3"),
        (lambda: lpr.groups_by([1, "a", None], lpr.at_most(1)), "labels: expected"),
        (
            lambda: lpr.solvers.write(lpr.RoutingProblem(LOGITS, token_groups=WIDE_NAMES), "p.mps"),
            "two groups or rows have the same name but for blanks",
        ),
        (
            lambda: lpr.certify(
                lpr.problems.expert_choice(LOGITS, 1),
                LOGITS > 2,
                lpr.Prices(experts=np.ones(3) * 1j),
            ),
            "prices of experts: expected real numbers, got torch.complex128",
        ),
        (
            lambda: lpr.certify(lpr.problems.token_choice(LOGITS, 1), LOGITS * 1j, lpr.Prices()),
            "assignment: expected real amounts, got torch.complex64",
        ),
        (
            lambda: TopK(1, score=lambda logits, mask: logits.numpy())(LOGITS),
            "the score function returned ndarray; it must return a tensor",
        ),
        (
            lambda: TopK(1, score=lambda logits, mask: logits[:1])(LOGITS),
            r"returned shape \(1, 3\) for logits of shape \(2, 3\); it must keep the shape",
        ),
        (
            lambda: TopK(1, score="logits", normalise="kept")(-LOGITS),
            "normalise='kept' divides by a sum of scores, but some are negative",
        ),
        (lambda: CapacityFactor(1e300).of(8, 4, 2), "capacity factor 1e[+]300 asks for 1.6e[+]301"),
        (lambda: Unified(1, rate="half"), "rate='half': expected a number from 0 to 1"),
        (
            lambda: lpr.traces.Trace(LOGITS[None], "here", sequence=torch.tensor([0.5, 1.0])),
            "here: sequence must hold whole numbers",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(call, words):
    with pytest.raises(lpr.InputError, match=words):
        call()


def test_a_text_array_under_a_key_that_counts_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", router_logits=np.array(["a"]))
    with pytest.raises(
        lpr.InputError, match=r"a\.npz: router_logits: expected an array of numbers"
    ):
        lpr.traces.read(tmp_path / "a.npz")


def test_a_pt_file_that_holds_a_number_is_named(tmp_path):
    torch.save(3, tmp_path / "a.pt")
    with pytest.raises(lpr.InputError, match=r"expected a tensor, a list of .*, got int"):
        lpr.traces.read(tmp_path / "a.pt")
    torch.save([LOGITS, 3], tmp_path / "a.pt")
    with pytest.raises(lpr.InputError, match=r"entry 1 is int, others are tensors"):
        lpr.traces.read(tmp_path / "a.pt")
