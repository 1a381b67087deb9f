"""Dropped experts in the sample's model: intervals, choices, losses; a choice above its bound."""

import csv

import pytest
import torch

from benchmarks import experts_dropped
from benchmarks.byte_moe.corpus import load_corpus
from benchmarks.byte_moe.sample import load_model
from benchmarks.byte_moe.train import as_tensor
from benchmarks.experts_dropped import (
    SEER,
    Layer,
    choices,
    interval,
    losses,
    main,
    windows_of,
)


def test_two_windows_that_differ_by_1_and_3():
    # mean 2, standard deviation sqrt(2), over sqrt(2) windows: 1, so 1.96 either way
    assert interval(torch.tensor([1.0, 3.0])) == pytest.approx((2.0, 1.96))


def test_windows_begin_at_both_ends_of_the_text():
    windows = windows_of(torch.arange(10, dtype=torch.uint8), 2, 4)
    assert windows.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


# Claim O10c's story: twins A and B serve four tokens, C one alone. Counting keeps the twins,
# facility location A and C. The norm of C is the largest, and the change of the last token too.
def test_each_rule_keeps_what_its_numbers_say():
    p = torch.tensor([[3.0, 2, 0], [3, 2, 0], [2, 3, 0], [2, 3, 0], [0, 0, 3]]).double()
    layer = Layer(
        p,
        (p == 3).double(),
        torch.tensor([[1.0, 2.0, 9.0]]).double().expand(5, 3),
        torch.tensor([0.1, 0.1, 0.1, 0.1, 1.0]).double(),
        torch.tensor([3.0, 1.0, 2.0]),
        torch.tensor([1.0, 2.0, 3.0]),
    )
    kept = {name: x.int().tolist() for name, x in choices(layer, 2, 1, 1.0).items()}
    assert kept[SEER] == kept["soft count (SEER)"] == kept["gate mass"] == [1, 1, 0]
    assert kept["greedy facility location"] == [1, 0, 1]
    assert kept["best on 5 tokens (HiGHS)"] in ([1, 0, 1], [0, 1, 1])
    assert kept["EASY-EP"] == kept["mean norm (MAN)"] == [0, 1, 1]  # .2, .4, 9 and 1, 2, 9
    assert kept["router norm (MC-Suite)"] == [1, 0, 1]
    assert kept["stable rank (MC-Suite)"] == [0, 1, 1]


def test_with_all_experts_kept_the_loss_is_the_model_s_and_with_few_it_is_higher():
    model = load_model()
    windows = windows_of(as_tensor(load_corpus().held_out), 2, model.config.context)
    whole = losses(model, windows)
    every = [torch.ones(32, dtype=torch.bool)] * 4
    assert torch.equal(losses(model, windows, every), whole)
    few = [torch.arange(32) < 4] * 4
    assert (losses(model, windows, few) > whole + 0.1).all()
    assert torch.equal(losses(model, windows), whole)  # nothing is left behind


def test_a_row_for_each_rule_and_a_choice_above_its_bound_is_an_error(monkeypatch, tmp_path):
    words = ["--windows", "2", "--calibration", "2", "--keep", "28", "--limit", "1"]
    assert main([*words, "--out", str(tmp_path / "x.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))
    assert len(rows) == 10
    assert all(-1e-6 <= float(row["gap_percent"]) < 100 for row in rows)
    monkeypatch.setattr(experts_dropped, "bound_on_kept", lambda *_: 0.0)
    assert main([*words, "--out", str(tmp_path / "y.csv")]) == 1
