"""Router logits recorded while a model runs: what hooks see, and what they refuse."""

import pytest
import torch
from torch import nn

import lp_routing as lpr
from lp_routing.traces import capture


class Block(nn.Module):
    """A router and something after it, which works in place, as fused kernels do."""

    def __init__(self, experts, give=lambda logits: logits):
        super().__init__()
        self.gate = nn.Linear(4, experts, bias=False)
        self.give = give

    def forward(self, hidden):
        found = self.give(self.gate(hidden))
        logits = found[0] if isinstance(found, tuple) else found
        logits += 100.0
        return hidden + logits.mean()


class Told(nn.Module):
    """A router that gives back what it is told to."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, _):
        return self.output


def model_of(*experts):
    torch.manual_seed(0)
    return nn.Sequential(*(Block(E) for E in experts))


def test_two_layers_two_batches_in_reading_order():
    model = model_of(3, 3)
    batches = [torch.randn(2, 5, 4), torch.randn(1, 2, 4)]
    with torch.no_grad(), capture(model, "*.gate") as captured:
        for batch in batches:
            model(batch)
    trace = captured.trace()
    assert list(captured.rows) == ["0.gate", "1.gate"]
    assert trace.router_logits.shape == (2, 12, 3)
    assert trace.source == "captured from Sequential"
    # sequence by sequence, batch by batch; before the block worked on them in place
    tokens = torch.cat([batch.flatten(0, 1) for batch in batches])
    torch.testing.assert_close(trace.layer(0), tokens @ model[0].gate.weight.T.detach())
    following = torch.cat([model[0](batch).flatten(0, 1) for batch in batches]).detach()
    torch.testing.assert_close(trace.layer(1), following @ model[1].gate.weight.T.detach())


def test_the_hooks_change_nothing_and_are_gone_afterwards():
    model, batch = model_of(3), torch.randn(7, 4)
    before = model(batch)
    with capture(model, "0.gate") as captured:
        during = model(batch)
    after = model(batch)
    assert torch.equal(before, during)
    assert torch.equal(before, after)
    assert len(captured.rows["0.gate"]) == 1
    assert not captured.rows["0.gate"][0].requires_grad


def test_hooks_are_gone_after_an_error_too():
    model = model_of(3)
    with pytest.raises(ZeroDivisionError), capture(model, "*.gate"):
        raise ZeroDivisionError
    assert not model[0].gate._forward_hooks


def test_half_precision_is_kept():
    model = nn.Sequential(Told(torch.randn(6, 3).bfloat16()))
    with capture(model, "0") as captured:
        model(None)
    assert captured.trace().router_logits.dtype == torch.bfloat16


def test_logits_come_first_in_a_tuple_unless_it_is_said_where():
    logits, scores = torch.randn(6, 3), torch.randn(6, 2)
    model = nn.Sequential(Told((logits, scores)))
    with capture(model, "0") as first:
        model(None)
    with capture(model, "0", select=lambda output: output[1]) as second:
        model(None)
    assert torch.equal(first.trace().layer(0), logits)
    assert torch.equal(second.trace().layer(0), scores)


def test_patterns_choose_and_keep_the_order_of_the_model():
    model = model_of(3, 5, 3)
    with capture(model, ["2.gate", "0.*"]) as captured:
        model(torch.randn(6, 4))
    assert list(captured.rows) == ["0.gate", "2.gate"]
    assert captured.trace().layers == 2


def test_mask_and_sequence_come_with_the_trace():
    model = model_of(3)
    with capture(model, "*.gate") as captured:
        model(torch.randn(2, 3, 4))
    real = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool().flatten()
    sequence = torch.arange(2).repeat_interleave(3)
    trace = captured.trace(mask=real, sequence=sequence)
    assert len(trace.layer(0)) == 5
    assert torch.equal(trace.sequence, sequence)
    assert torch.equal(captured.trace(mask=real.view(2, 3)).mask, real)
    for wrong in (real.view(2, 3)[:, :2], real.view(3, 2)):
        with pytest.raises(lpr.InputError, match=r"mask has shape .* the model read 2 x 3"):
            captured.trace(mask=wrong)
    with pytest.raises(lpr.InputError, match=r"mask has shape \(5,\)"):
        captured.trace(mask=real[:5])
    assert torch.equal(captured.trace(mask=real.view(2, 3).tolist()).mask, real)
    assert torch.equal(captured.trace(mask=real.float()).mask, real)
    with pytest.raises(lpr.InputError, match="0 and 1"):
        captured.trace(mask=real * 2)


def test_sequences_are_numbered_where_the_input_shows_them():
    model = model_of(3)
    with capture(model, "*.gate") as captured:
        model(torch.randn(2, 3, 4))
        model(torch.randn(1, 2, 4))
    assert captured.trace().sequence.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    with capture(model, "*.gate") as captured:
        model(torch.randn(2, 3, 4))
        model(torch.randn(2, 4))  # tokens of which nothing says where sequences end
    assert captured.trace().sequence is None
    real = [torch.tensor([[1, 1, 0], [1, 1, 1]]).bool(), torch.tensor([True, False])]
    assert captured.trace(mask=real).mask.tolist() == [True, True, False, *[True] * 4, False]


def test_a_name_that_is_not_there_gets_those_that_are():
    with (
        pytest.raises(lpr.InputError, match=r"called '\*\.router'\. There are \*\.gate\."),
        capture(model_of(3, 3), "*.router"),
    ):
        pass
    with (
        pytest.raises(lpr.InputError, match=r"called '\*\.wg'.*There are \*\.gate"),
        capture(model_of(3, 3), ["*.gate", "*.wg"]),
    ):
        pass
    with pytest.raises(lpr.InputError, match="It has no parts"), capture(nn.Identity(), []):
        pass
    with (
        pytest.raises(lpr.InputError, match=r"names is empty\. There are \*, \*\.mix\."),
        capture(nn.Sequential(nn.ModuleDict({"mix": nn.Identity()})), []),
    ):
        pass
    with pytest.raises(lpr.InputError, match="got str"), capture("model", "*"):
        pass


def test_a_router_that_nobody_called():
    model = model_of(3, 3)
    with capture(model, "*.gate") as captured:
        model[0](torch.randn(6, 4))
    with pytest.raises(lpr.InputError, match=r"1\.gate was never called"):
        captured.trace()


def test_layers_of_different_shapes_are_no_trace():
    model = model_of(3, 5)
    with capture(model, "*.gate") as captured:
        model(torch.randn(6, 4))
    with pytest.raises(
        lpr.InputError, match=r"0\.gate gave 6 tokens x 3 experts in 1 call.*1\.gate 6 x 5"
    ):
        captured.trace()
    model = model_of(3, 3)
    with capture(model, "*.gate") as captured:
        model(torch.randn(6, 4))
        model[1](torch.randn(6, 4))
    with pytest.raises(lpr.InputError, match=r"1\.gate 12 x 3 in 2"):
        captured.trace()


def test_one_router_with_several_numbers_of_experts():
    model = nn.Sequential(nn.Identity())
    with capture(model, "0") as captured:
        model(torch.randn(6, 3))
        model(torch.randn(6, 4))
    with pytest.raises(lpr.InputError, match=r"rows of \[3, 4\] experts"):
        captured.trace()


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ({"logits": 1}, "got dict"),
        (torch.ones(3), r"float32 of shape \(3,\)"),
        (torch.ones(3, 2, dtype=torch.long), "int64"),
        ((), "got tuple"),
    ],
)
def test_an_output_without_logits_is_refused_while_the_model_runs(output, found):
    model = nn.Sequential(Told(output))
    with (
        pytest.raises(lpr.InputError, match=rf"^0: expected floating-point.*{found}.*select="),
        capture(model, "0"),
    ):
        model(None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_probabilities_are_no_logits(dtype):
    logits = torch.randn(50, 64)
    model = nn.Sequential(Told(logits.softmax(-1).to(dtype)))
    with capture(model, "0") as captured:
        model(None)
    with pytest.raises(lpr.InputError, match=r"layer 0 is >= 0 and adds up to 1.*output\[0\]\.log"):
        captured.trace()
    with capture(model, "0", select=torch.log) as captured:
        model(None)
    again = captured.trace().layer(0).float().softmax(-1)
    torch.testing.assert_close(again, logits.softmax(-1), rtol=0.05, atol=1e-3)


def test_what_the_trace_refuses_is_told_with_the_model():
    model = nn.Sequential(Told(torch.tensor([[1.0, float("nan")]])))
    with capture(model, "0") as captured:
        model(None)
    with pytest.raises(lpr.InputError, match=r"captured from Sequential: router_logits.*nan"):
        captured.trace()


class Scaled(nn.Module):
    """A router that does something to the product of hidden states and weight."""

    def __init__(self, then):
        super().__init__()
        self.wg, self.then = nn.Linear(4, 3), then

    def forward(self, hidden):
        return self.then(self.wg(hidden))


def test_what_is_recorded_is_the_product_with_the_weight():
    torch.manual_seed(0)
    hidden = torch.randn(6, 4)
    for then in (torch.sigmoid, torch.tanh, lambda x: x + 1e-3 * torch.randn(6, 3)):
        model = nn.Sequential(Scaled(then))
        with (
            pytest.raises(lpr.InputError, match=r"0: what was recorded is not hidden @ weight\.T"),
            capture(model, "0"),
        ):
            model(hidden)
        with capture(model, "0", check=False) as captured:
            model(hidden)
        with capture(model, "0.wg") as inner:
            model(hidden)
        assert torch.equal(inner.trace().layer(0), model[0].wg(hidden))
        assert torch.allclose(captured.trace().layer(0), then(inner.trace().layer(0)), atol=1e-2)
    model = nn.Sequential(Scaled(lambda x: x))
    with capture(model, "0") as captured:
        model(hidden)
    assert not captured.trace().up_to_a_constant


def test_what_is_a_few_per_cent_off_is_refused_in_half_precision():
    torch.manual_seed(0)
    hidden, then = 2 * torch.randn(20, 4), lambda x: 3 * torch.tanh(x / 3)
    for dtype in (torch.bfloat16, torch.float16):
        model = nn.Sequential(Scaled(then)).to(dtype)
        with pytest.raises(lpr.InputError, match="is not hidden"), capture(model, "0"):
            model(hidden.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_rounding_is_no_reason_to_refuse(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 8)).to(dtype)
    hidden = 10 * torch.randn(300, 512).to(dtype)
    with capture(model, "0") as captured, torch.no_grad():
        model(hidden)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(hidden)
    assert [rows.shape for rows in captured.rows["0"]] == [(300, 8), (300, 8)]


def test_logits_made_under_autocast_and_widened_are_accepted():
    torch.manual_seed(0)
    model = nn.Sequential(Scaled(torch.Tensor.float))
    with capture(model, "0") as captured, torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.randn(20, 4))
    assert captured.trace().router_logits.dtype == torch.float32


def test_logits_less_a_number_of_each_token_are_known_up_to_a_constant():
    torch.manual_seed(0)
    model = nn.Sequential(Scaled(lambda x: x - x.amax(-1, keepdim=True)))
    with capture(model, "0") as captured:
        model(torch.randn(6, 4))
    assert captured.trace().up_to_a_constant


@pytest.mark.parametrize("size", [1.0, 1000.0])  # the larger underflow: logarithms of 0
def test_logarithms_of_probabilities_are_known_up_to_a_constant(size):
    torch.manual_seed(0)
    model = nn.Sequential(Scaled(lambda x: (x.softmax(-1), x.argmax(-1))))
    with capture(model, "0", select=lambda output: output[0].log()) as captured:
        model(size * torch.randn(6, 4))
    assert captured.trace().up_to_a_constant
    assert bool((captured.trace().router_logits == float("-inf")).any()) == (size > 1)


def test_a_router_and_the_linear_within_it_are_not_recorded_twice():
    model = nn.Sequential(Scaled(lambda x: x))
    with pytest.raises(lpr.InputError, match=r"0 and 0\.wg within it"), capture(model, "0*"):
        pass
    with pytest.raises(lpr.InputError, match="the model and 0 within it"), capture(model, "*"):
        pass


def test_passes_computed_again_are_not_recorded_again():
    from torch.utils.checkpoint import checkpoint

    model = model_of(3)
    hidden = torch.randn(5, 4, requires_grad=True)
    for reentrant in (False, True):
        with capture(model, "*.gate") as captured:
            checkpoint(model, hidden, use_reentrant=reentrant).sum().backward()
        assert len(captured.rows["0.gate"]) == 1
        assert captured.trace().router_logits.shape == (1, 5, 3)


def test_without_names_there_must_be_a_known_class():
    with (
        pytest.raises(lpr.InputError, match=r"no router of a class that is known.*\*\.gate"),
        capture(model_of(3)),
    ):
        pass


def test_k_and_capacity_factor_come_from_the_config():
    model = model_of(3)
    model.config = type("Config", (), {"num_experts_per_tok": 2, "capacity_factor": 1.5})()
    with capture(model, "*.gate") as captured:
        model(torch.randn(5, 4))
    trace = captured.trace()
    assert (trace.k, trace.capacity_factor, trace.score, trace.bias) == (2, 1.5, None, None)
    assert tuple(trace.layer_names) == ("0.gate",)
