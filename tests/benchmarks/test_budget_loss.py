"""Loss against budget: the model's own routing gives its own loss, and another does not."""

import torch

from benchmarks import experts_dropped
from benchmarks.budget_loss import BUDGETS, losses, main, routers
from benchmarks.byte_moe.corpus import load_corpus
from benchmarks.byte_moe.sample import load_model
from benchmarks.byte_moe.train import as_tensor
from benchmarks.experts_dropped import windows_of
from lp_routing.routers import TopK, Unified


def test_token_choice_is_the_model_and_half_the_pairs_are_not():
    model = load_model()
    windows = windows_of(as_tensor(load_corpus().held_out), 2, model.config.context)
    loss, without = losses(model, windows, TopK(2, normalise="kept"))
    assert torch.allclose(loss, experts_dropped.losses(model, windows), atol=1e-5)
    assert without == 0
    fewer, without = losses(model, windows, Unified(0.5, rate=0.0, normalise="kept"))
    assert (fewer > loss).all()
    assert without >= 0.5  # at most half of the tokens can have one


def test_a_row_for_each_router_and_budget(tmp_path, monkeypatch):
    few = [each for each in routers() if each[1] == 2.0][:2]
    assert len(routers()) == 2 + 5 * len(BUDGETS)
    monkeypatch.setattr("benchmarks.budget_loss.routers", lambda: few)
    assert main(["--windows", "2", "--out", str(tmp_path / "x.csv")]) == 0
    lines = (tmp_path / "x.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["router", "token choice", '"pool']
