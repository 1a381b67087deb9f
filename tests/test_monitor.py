"""The certified gap while a model trains: by hand, stale prices, hooks, masks, ranks, logs."""

import json
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import lp_routing as lpr
from lp_routing.monitor import to_jsonl, to_tensorboard, to_wandb

CertifiedGap = partial(lpr.monitor.CertifiedGap, stride=1)

# two tokens that both want expert 0: probabilities .8 and .2, .6 and .4
TWO = torch.tensor([[0.8, 0.2], [0.6, 0.4]]).log()


def batch(seed, T=64, E=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(T, E, generator=generator) + torch.linspace(1, -1, E)


def test_a_step_worked_by_hand():
    # one slot an expert: the best is .8 + .4 = 1.2; dropping by score keeps the .8 alone. The load
    # asked for is (2, 0): largest 2 over a mean of 1, entropy 0
    monitor = CertifiedGap(k=1, capacity_factor=1.0)
    monitor.update("0", TWO)
    found = monitor.step()
    assert found["0/value"] == pytest.approx(0.8)
    assert found["0/bound"] == pytest.approx(1.2)
    assert found["0/gap"] == pytest.approx(1 / 3)
    assert (found["0/dropped"], found["0/max_violation"], found["0/load_entropy"]) == (0.5, 1, 0)
    assert (found["0/violation"], found["0/price_age"]) == (0, 0)
    assert found["0/max_price"] >= found["0/price"] > 0


def test_batches_of_a_step_add_up_and_steps_do_not():
    monitor = CertifiedGap(k=1, capacity_factor=1.0)
    monitor.update("0", TWO)
    monitor.update("0", TWO.flip(1))
    found = monitor.step()
    assert found["0/value"] == pytest.approx(1.6)
    assert found["0/max_violation"] == 0  # loads (2, 0) and (0, 2)
    monitor.update("0", TWO)
    assert monitor.step()["0/value"] == pytest.approx(0.8)
    assert monitor.step() == {}


def test_the_optimum_has_no_gap_where_prices_are_fresh():
    monitor = CertifiedGap(
        k=2, router=lpr.routers.Optimal(2, lpr.routers.CapacityFactor(1.25)), every=1
    )
    for seed in range(3):
        monitor.update("0", batch(seed))
        assert abs(monitor.step()["0/gap"]) < 1e-9


def test_old_prices_give_a_looser_bound_that_still_holds():
    monitor, fresh = CertifiedGap(k=2, every=4), CertifiedGap(k=2, every=1)
    ages = []
    for seed in range(6):
        for each in (monitor, fresh):
            each.update("0", batch(seed))
        old, new = monitor.step(), fresh.step()
        ages.append(old["0/price_age"])
        problem = lpr.capacity(batch(seed).softmax(-1), 2, factor=1.25)
        best = lpr.solve(problem).value
        assert new["0/bound"] == pytest.approx(best, rel=1e-9)
        assert old["0/bound"] >= best * (1 - 1e-12)
        assert old["0/value"] == new["0/value"]
    assert ages == [0, 1, 2, 3, 0, 1]


def test_steps_between_measurements_cost_nothing():
    monitor = lpr.monitor.CertifiedGap(k=2, stride=3, every=4)
    ages = []
    for seed in range(8):
        monitor.update("0", batch(seed))
        ages.append(monitor.step().get("0/price_age"))
    assert ages == [0, None, None, 3, None, None, 0, None]


def test_a_choice_of_the_model_itself_and_one_that_breaks_the_capacity():
    monitor = CertifiedGap(k=1, capacity_factor=1.0)
    monitor.update("0", TWO, chosen=torch.tensor([[1, 0], [0, 1]]).bool())
    assert monitor.step()["0/gap"] == pytest.approx(0, abs=1e-12)
    monitor.update("0", TWO, chosen=torch.tensor([[1, 0], [1, 0]]).bool())
    found = monitor.step()
    assert found["0/violation"] == 1
    assert "0/gap" not in found


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_default_rule_is_top_k_that_drops_by_score(k):
    rule = lpr.routers.TopK(k, capacity=lpr.routers.CapacityFactor(1.25))
    monitor, named = CertifiedGap(k=k), CertifiedGap(k=k, router=rule)
    for each in (monitor, named):
        each.update("0", batch(1))
    one, other = monitor.step(), named.step()
    assert one["0/dropped"] == other["0/dropped"] > 0
    assert one["0/value"] == pytest.approx(other["0/value"], rel=1e-6)
    assert one["0/load_entropy"] == other["0/load_entropy"]


def test_padding_is_left_out():
    monitor, alone = CertifiedGap(k=1), CertifiedGap(k=1)
    padded = torch.stack([batch(0, 4), torch.full((4, 8), 9.0)])
    monitor.update("0", padded, mask=torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]))
    alone.update("0", batch(0, 4))
    assert monitor.step() == alone.step()
    monitor.update("0", padded, mask=torch.zeros(2, 4))
    assert monitor.step() == {}


class Block(nn.Module):
    """Two routers in turn; what they say changes what comes after."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 4), nn.Linear(6, 4)
        self.repeats = False

    def part(self, hidden):
        for router in (self.first, self.second):
            hidden = hidden * router(hidden).softmax(-1).amax(-1, keepdim=True)
        return hidden

    def forward(self, hidden, attention_mask=None):
        if self.repeats:
            return checkpoint(self.part, hidden, use_reentrant=False)
        return self.part(hidden)


def losses(model, monitor=None, steps=3):
    """Train a little; outputs and gradients of every step."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    for step in range(steps):
        hidden = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(step))
        out = model(hidden)
        optimiser.zero_grad()
        out.square().sum().backward()
        seen += [out.detach().clone(), *(p.grad.clone() for p in model.parameters())]
        optimiser.step()
        if monitor is not None:
            monitor.step()
    return seen


@pytest.mark.parametrize("repeats", [False, True])
def test_the_model_is_not_changed_bit_for_bit(repeats):
    plain, watched = Block(), Block()
    plain.repeats = watched.repeats = repeats
    told = []
    monitor = CertifiedGap(k=2, log=told.append)
    with monitor.watch(watched, ["first", "second"]):
        seen = losses(watched, monitor)
    assert all(map(torch.equal, seen, losses(plain)))
    assert [numbers["step"] for numbers in told] == [1, 2, 3]
    assert {name.split("/")[0] for name in told[0]} == {"step", "first", "second"}


def test_checkpointed_passes_count_once():
    asked = []
    for repeats in (False, True):
        model, monitor = Block(), CertifiedGap(k=2)
        model.repeats = repeats
        with monitor.watch(model, "first"):
            model(torch.ones(1, 5, 6)).sum().backward()
        asked.append(monitor.step())
    assert asked[0] == asked[1]


def test_evaluation_is_not_watched_and_hooks_are_taken_away():
    model, monitor = Block(), CertifiedGap(k=2)
    with monitor.watch(model, "first"):
        model.eval()
        model(torch.ones(1, 5, 6))
        assert monitor.step() == {}
        model.train()
    model(torch.ones(1, 5, 6))
    assert monitor.step() == {}


def test_the_attention_mask_of_the_model_is_used():
    model, monitor, alone = Block(), CertifiedGap(k=2), CertifiedGap(k=2)
    hidden = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    with monitor.watch(model, "first"):
        model(hidden, attention_mask=torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]]))
    alone.update("first", model.first(hidden.reshape(8, 6)[:5]))
    assert monitor.step()["first/value"] == pytest.approx(alone.step()["first/value"])


def on_a_rank(rank, folder):
    """Each rank has one half of the tokens."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    monitor = CertifiedGap(k=2, group=dist.group.WORLD)
    monitor.update("0", batch(rank))
    found = monitor.step()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_ranks_add_up(tmp_path):
    torch.multiprocessing.spawn(on_a_rank, (tmp_path,), nprocs=2)
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    apart = []
    for rank in (0, 1):
        monitor = CertifiedGap(k=2)
        monitor.update("0", batch(rank))
        apart.append(monitor.step())
    for what in ("0/value", "0/bound"):
        assert one[what] == two[what] == pytest.approx(apart[0][what] + apart[1][what])
    assert one["0/dropped"] == pytest.approx((apart[0]["0/dropped"] + apart[1]["0/dropped"]) / 2)


def test_logs(tmp_path):
    class Writer(list):
        def add_scalar(self, name, value, step):
            self.append((name, value, step))

        def log(self, numbers):
            self.append(numbers)

    numbers = {"step": 3, "0/gap": 0.5}
    to_jsonl(tmp_path / "a.jsonl")(numbers)
    to_jsonl(tmp_path / "a.jsonl")(numbers)
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [
        numbers,
        numbers,
    ]
    board, run = Writer(), Writer()
    to_tensorboard(board)(numbers)
    to_wandb(run)(numbers)
    assert board == [("0/gap", 0.5, 3)]
    assert run == [{"0/gap": 0.5}]


def test_the_trainer_of_transformers_logs_every_step():
    pytest.importorskip("accelerate")
    from transformers import MixtralConfig, MixtralForCausalLM, Trainer, TrainingArguments

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "vocab_size": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 4}
    model = MixtralForCausalLM(MixtralConfig(**sizes, **heads))
    text = torch.arange(8) % 16
    data = [{"input_ids": text, "labels": text}] * 4
    options = TrainingArguments(
        "unused", max_steps=2, per_device_train_batch_size=2, report_to=[], use_cpu=True
    )
    trainer = Trainer(model=model, args=options, train_dataset=data)
    monitor = CertifiedGap(k=2, log=trainer.log)
    trainer.add_callback(lpr.monitor.trainer_callback(monitor))
    trainer.train()
    told = [row for row in trainer.state.log_history if "model.layers.1.mlp.gate/gap" in row]
    assert len(told) == 2
    model.train()
    model(text[None])
    assert monitor.step() == {}  # the hooks are gone


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision(dtype):
    monitor = CertifiedGap(k=2)
    monitor.update("0", batch(0).to(dtype))
    assert 0 <= monitor.step()["0/gap"] < 0.2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: CertifiedGap(0), "k=0"),
        (lambda: CertifiedGap(1, every=0), "every=0"),
        (lambda: lpr.monitor.CertifiedGap(1, stride=0), "stride=0"),
        (lambda: CertifiedGap(1, log=3), "log"),
        (lambda: CertifiedGap(1, router="top-k"), "router"),
        (lambda: CertifiedGap(1, capacity_factor=-1), "capacity"),
        (lambda: CertifiedGap(1, score="none"), "score"),
        (lambda: CertifiedGap(9).update("0", TWO), "9"),
        (lambda: CertifiedGap(1).update("0", TWO * math.nan), "is nan"),
        (lambda: CertifiedGap(1).update("0", TWO, mask=[1, 0, 1]), "one entry for each of the 2"),
        (lambda: to_jsonl(3), "name of a file"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(lpr.InputError, match=words):
        call()


def test_another_number_of_experts_is_refused():
    monitor = CertifiedGap(1)
    monitor.update("0", TWO)
    with pytest.raises(lpr.InputError, match="8 experts, 2 in the batch before"):
        monitor.update("0", batch(0))
