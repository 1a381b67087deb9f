"""Reading order of captured tokens where a model decodes, and what else depends on its passes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import lp_routing as lpr
from lp_routing.traces import capture
from lp_routing.traces.families import ROUTERS
from lp_routing.traces.reading_order import Pass, Stream, read_pass, reading_order
from tests.moe_families import run, tiny

pytest.importorskip("transformers")


def stream(ids, real=None):
    ids = torch.tensor(ids)
    real = torch.ones_like(ids).bool() if real is None else torch.tensor(real).bool()
    return [Stream(tuple(ids.shape), ids, real)]


def call(ids, start=0, cache=7, real=None, padding=0):
    """A pass with the end 2, and the shape of its rows."""
    pass_ = Pass(stream(ids, real), start, cache, frozenset([2]), padding)
    return pass_, (len(ids) * len(ids[0]),)


def test_steps_are_put_behind_their_sequences():
    order = reading_order([call([[5, 6], [7, 8]]), call([[9], [10]], 2), call([[11], [12]], 3)])
    assert order.index.tolist() == [0, 1, 4, 6, 2, 3, 5, 7]
    assert order.sequence.tolist() == [0] * 4 + [1] * 4
    assert order.real is None
    assert order.prompts == [(2, 2, 4)]


def test_what_fills_up_an_ended_sequence_is_padding():
    steps = [call([[2], [10]], 2), call([[0], [0]], 3), call([[0], [11]], 4), call([[0], [0]], 5)]
    order = reading_order([call([[0, 6], [2, 8]], real=[[0, 1], [1, 1]]), *steps])
    real = order.real.view(2, 6).int().tolist()
    # the end itself is a token; a 0 between others is one that the model chose
    assert real == [[0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]]
    prompts = torch.tensor([[1, 1], [0, 1]])
    assert order.mask(prompts).view(2, 6).tolist() == [[1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 0]]
    assert order.mask(None) is order.real
    assert order.mask(torch.ones(2, 6)).shape == (2, 6)
    with pytest.raises(lpr.InputError, match=r"shape \(3, 4\), but the model read 2 x 6"):
        order.mask(torch.ones(3, 4))


def real_of(*calls):
    order = reading_order(calls)
    return None if order.real is None else order.real.view(2, -1).int().tolist()


def test_a_sequence_ends_once():
    start = call([[5], [6]], padding=None)
    after = [call([[2], [7]], 1), call([[4], [8]], 2), call([[4], [9]], 3)]
    assert real_of(start, *after) == [[1, 1, 0, 0], [1, 1, 1, 1]]
    # filled up with ends: the first is real
    filled = [call([[2], [7]], 1, padding=2), call([[2], [8]], 2, padding=2)]
    assert real_of(start, *filled) == [[1, 1, 0], [1, 1, 1]]
    # the next turn of a chat goes on, several tokens at a time
    turn = [call([[2], [7]], 1), call([[4, 2], [8, 2]], 2), call([[5], [6]], 4)]
    assert real_of(start, *turn) is None
    # one sequence alone is decoded for its own sake
    assert reading_order([call([[5]]), call([[2]], 1), call([[4]], 2)]).real is None


def test_pieces_of_one_pass_are_put_together():
    pass_ = Pass(stream([[5, 6], [7, 8]]))
    order = reading_order([(pass_, (1,)), (pass_, (3,))])
    assert order.sequence.tolist() == [0, 0, 1, 1]


def test_what_a_pass_is_given():
    ids, mask = torch.tensor([[5, 6]]), torch.tensor([[0, 1, 1, 0]])
    given = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids.T}
    pass_ = read_pass(nn.Identity(), (), given)
    assert [each.shape for each in pass_.streams] == [(1, 2), (2, 1)]
    assert pass_.streams[0].real.tolist() == [[True, False]]  # of the last tokens
    assert pass_.streams[1].real.all()
    assert read_pass(nn.Identity(), (torch.zeros(2, 3, 4),), {}).streams[0].shape == (2, 3)
    assert read_pass(nn.Identity(), (torch.zeros(2, 3),), {}).streams == []


def test_rejected_drafts_are_replaced():
    calls = [call([[5, 6]]), call([[7, 8, 9]], 2), call([[10]], 3)]
    assert reading_order(calls).index.tolist() == [0, 1, 2, 5]


def test_batches_and_caches_are_told_apart():
    first, second = call([[5, 6]], cache=1), call([[5, 6]], cache=2)
    order = reading_order([first, second, call([[7]], 2, 1), call([[8]], 2, 2)])
    assert order.index.tolist() == [0, 1, 4, 2, 3, 5]
    assert order.sequence.tolist() == [0, 0, 0, 1, 1, 1]
    # a pass that follows on what was not captured begins a batch
    order = reading_order([call([[7]], 5, 1), call([[8]], 6, 1), call([[9]], 3, 4)])
    assert order.index.tolist() == [0, 1, 2]
    assert order.sequence.tolist() == [0, 0, 1]
    # nor one before its first token, or past its last
    for start in (3, 7):
        order = reading_order([call([[7]], 5, 1), call([[8]], start, 1)])
        assert order.sequence.tolist() == [0, 1]


def test_the_cache_that_the_first_pass_returns():
    order = reading_order([call([[5, 6]], cache=0), call([[7]], 2, 1), call([[8]], 3, 1)])
    assert order.sequence.tolist() == [0] * 4
    assert reading_order([call([[5, 6]], cache=0), call([[7]], 1, 1)]).sequence.tolist() == [
        0,
        0,
        1,
    ]


def test_decoding_without_a_cache_counts_tokens_once():
    calls = [call(ids, cache=0) for ids in ([[5, 6]], [[5, 6, 7]], [[5, 6, 7, 8]], [[6, 7]])]
    assert reading_order(calls).index.tolist() == [5, 6, 7, 8, 9, 10]
    calls = [call(ids, cache=0) for ids in ([[5, 6]], [[5, 7, 8]])]
    assert reading_order(calls).sequence.tolist() == [0, 0, 1, 1, 1]


def test_rows_of_which_nothing_says_whose_they_are():
    order = reading_order([call([[5, 6]]), (None, (3,)), (Pass([]), (2,))])
    assert order.index.tolist() == list(range(7))
    assert order.sequence is None
    assert order.prompts == []
    # (S, B) in place of (B, S)
    turned = reading_order([(Pass(stream([[5, 6, 7], [8, 9, 10]])), (3, 2))])
    assert turned.sequence is None


def test_generated_tokens_are_read_as_one_pass_reads_them():
    model = tiny("mixtral", "ForCausalLM")
    ids = torch.randint(3, 60, (3, 5), generator=torch.Generator().manual_seed(3))
    ids[0, :2] = 0
    prompts = (ids != 0).long()
    with capture(model) as captured:
        out = model.generate(input_ids=ids, attention_mask=prompts, max_new_tokens=6)
    trace = captured.trace()
    generated = out.shape[1] - 5
    assert len(captured.rows[captured.trace().layer_names[0]]) == generated
    assert trace.sequence.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    everything = torch.cat([prompts, torch.ones(3, generated - 1)], 1)
    with capture(model) as whole, torch.no_grad():
        model(input_ids=out[:, :-1], attention_mask=everything)
    real = trace.mask
    assert not real.view(3, -1)[0, :2].any()
    torch.testing.assert_close(
        trace.router_logits[:, real], whole.trace().router_logits[:, real], rtol=1e-3, atol=1e-4
    )
    assert torch.equal(captured.trace(mask=prompts).mask.bool(), real)


def test_the_ends_are_those_that_generation_is_told():
    model = tiny("mixtral", "ForCausalLM")
    ids = torch.randint(3, 60, (3, 5), generator=torch.Generator().manual_seed(3))
    free = model.generate(input_ids=ids, max_new_tokens=8, min_new_tokens=8)[:, 5:]
    # an end that comes early in the first sequence and not in all
    end = next(t for t in free[0].tolist() if any(t not in row for row in free.tolist()))
    model.generation_config.eos_token_id = end
    model.generation_config.pad_token_id = end
    with capture(model) as captured:
        out = model.generate(input_ids=ids, max_new_tokens=8)
    real = torch.ones_like(out).bool()
    ends = (out[:, 5:] == end).long()
    real[:, 5:] = ends.cumsum(1) - ends == 0
    assert not real.all()
    assert torch.equal(captured.trace().mask.view(3, -1), real[:, :-1])


@pytest.mark.parametrize("how", [{"use_cache": False}, {"prompt_lookup_num_tokens": 2}])
def test_other_ways_of_decoding(how):
    model = tiny("mixtral", "ForCausalLM")
    ids = torch.tensor([[5, 6, 7, 5, 6]])
    with capture(model) as captured:
        out = model.generate(input_ids=ids, max_new_tokens=6, min_new_tokens=6, **how)
    with capture(model) as whole:
        run(model, out[:, :-1])
    logits = captured.trace().router_logits
    assert logits.shape[1] in (10, 11)  # drafts of the last pass may be among them
    torch.testing.assert_close(logits[:, :10], whole.trace().router_logits, rtol=1e-3, atol=1e-4)


def test_beam_search_has_no_reading_order():
    from transformers.cache_utils import Cache

    before = Cache.reorder_cache
    model = tiny("mixtral", "ForCausalLM")
    with capture(model) as captured:
        model.generate(input_ids=torch.tensor([[5, 6, 7]]), max_new_tokens=6, num_beams=3)
    assert Cache.reorder_cache is before
    with pytest.raises(lpr.InputError, match="num_beams=1"):
        captured.trace()


def test_an_exchange_of_sequences_is_not_forgotten_at_the_next_step():
    from transformers.cache_utils import DynamicCache

    model = tiny("mixtral", "ForCausalLM")
    with capture(model) as captured:
        cache = DynamicCache()
        model(input_ids=torch.tensor([[5, 6], [7, 8]]), past_key_values=cache, use_cache=True)
        cache.reorder_cache(torch.tensor([1, 0]))
        cache.reorder_cache(torch.tensor([0, 1]))  # this step keeps every beam
    with pytest.raises(lpr.InputError, match="num_beams=1"):
        captured.trace()


def test_gradient_checkpointing_of_a_model():
    model = tiny("mixtral", "ForCausalLM").train()
    # the old name, of transformers before 5.23
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    ids = torch.arange(3, 13).view(2, 5)
    with capture(model) as captured:
        model(input_ids=ids, labels=ids).loss.backward()
    assert model.model.layers[0].mlp.experts.down_proj.grad is not None
    assert [len(rows) for rows in captured.rows.values()] == [1, 1]


def test_a_family_is_known_by_patterns_too():
    model = tiny("llama4")
    with capture(model, "*router*") as captured:
        run(model, torch.arange(3, 9)[None])
    assert captured.trace().score == "sigmoid"
    assert bool((captured.trace().router_logits < 0).any())  # logits, where output[0] is not
    model = tiny("switch_transformers")
    with capture(model, "encoder.*router*") as captured:  # the Linear within each matches as well
        run(model, torch.arange(3, 9)[None])
    assert len(captured.rows) == 2
    assert all(name.endswith("router") for name in captured.rows)


def test_encoder_and_decoder_are_captured_apart():
    model = tiny("switch_transformers", "ForConditionalGeneration")
    ids = torch.arange(3, 9).view(2, 3)
    with capture(model) as both:
        model.generate(input_ids=ids, max_new_tokens=4, min_new_tokens=4)
    with pytest.raises(lpr.InputError, match=r"'encoder\..*router' and 'decoder\..*router'"):
        both.trace()
    with (
        capture(model, "encoder.*.router") as encoder,
        capture(model, "decoder.*.router") as decoder,
    ):
        model.generate(input_ids=ids, max_new_tokens=4, min_new_tokens=4)
    assert encoder.trace().sequence.tolist() == [0, 0, 0, 1, 1, 1]
    assert decoder.trace().sequence.tolist() == [0] * 4 + [1] * 4


def test_routers_that_are_not_called_are_left_out_where_none_was_named():
    model = tiny("ernie4_5_vl_moe")
    with capture(model) as captured:
        run(model, torch.arange(3, 9)[None])
    assert captured.trace().layers == 2
    assert all("text_moe" in name for name in captured.trace().layer_names)
    with capture(model) as none, pytest.raises(lpr.InputError, match="never called"):
        none.trace()


def test_a_model_within_another_is_followed():
    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def generate(self, **given):
            return self.inner.generate(**given)

    model = Wrapped(tiny("mixtral", "ForCausalLM"))
    with capture(model) as captured:
        model.generate(input_ids=torch.arange(3, 9).view(2, 3), max_new_tokens=4, min_new_tokens=4)
    assert captured.trace().sequence.tolist() == [0] * 6 + [1] * 6


def test_a_bias_that_cannot_be_read_is_refused(monkeypatch):
    wrong = replace(ROUTERS["DeepseekV3TopkRouter"], bias="weight")
    monkeypatch.setitem(ROUTERS, "DeepseekV3TopkRouter", wrong)
    model = tiny("deepseek_v3")
    with (
        pytest.raises(lpr.InputError, match=r"selection bias .* shape \(4, 16\), 4 experts"),
        capture(model),
    ):
        run(model, torch.arange(3, 9)[None])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_agrees_with_the_weight(dtype):
    for family in ("mixtral", "granitemoe", "deepseek_v3", "gemma4"):
        model = tiny(family).to(dtype)
        with capture(model) as captured:
            run(model, torch.arange(3, 43)[None])
        assert captured.trace().router_logits.shape[1] == 40


def test_a_mask_given_by_position_is_a_mask():
    model = tiny("mixtral", "ForCausalLM")
    ids, mask = torch.arange(12).reshape(2, 6), torch.tensor([[1] * 6, [0, 0, 0, 1, 1, 1]])
    with lpr.traces.capture(model) as named:
        model(ids, attention_mask=mask)
    with lpr.traces.capture(model) as placed:
        model(ids, mask)
    assert int((~named.trace().mask).sum()) == 3
    assert torch.equal(placed.trace().mask, named.trace().mask)


def test_an_end_after_which_other_tokens_follow_is_none():
    # the config calls 2 an end, but this run was told another one and goes on: nothing is padding;
    # the second row ends at 2 and is filled up with it
    model = tiny("mixtral", "ForCausalLM")
    model.generation_config.eos_token_id = model.config.eos_token_id = 2
    said = torch.tensor([[7, 2, 9, 10, 11], [7, 8, 2, 2, 2]])
    with lpr.traces.capture(model) as captured:
        cache = model(torch.tensor([[1, 3], [1, 4]]), use_cache=True).past_key_values
        for step in said.T:
            cache = model(step[:, None], past_key_values=cache, use_cache=True).past_key_values
    mask = captured.trace().mask.reshape(2, 7)
    assert mask.int().tolist() == [[1] * 7, [1, 1, 1, 1, 1, 0, 0]]


def test_a_block_that_holds_a_router_is_none():
    with (
        pytest.raises(lpr.InputError, match=r"is no router but holds .*mlp\.gate"),
        capture(tiny("mixtral", "ForCausalLM"), "*.mlp"),
    ):
        pass
