"""Masks, keys, axes and damage of files: what is used has the right value, the rest is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

import lp_routing as lpr
from tests.traces.test_traces import IDS, LOGITS, NAMED, NAN, PROBS, SUFFIXES, write

SIX = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))


def read_pt(path: Path, **content):
    torch.save(content, path / "a.pt")
    return lpr.traces.read(path / "a.pt")


@pytest.mark.parametrize(
    "mask",
    [
        torch.tensor([0, 0, 1, 1]),
        torch.tensor([0, 0, 1, 1], dtype=torch.uint8),
        torch.tensor([0.0, 0, 1, 1]).half(),
        torch.tensor([False, False, True, True]),
        [0, 0, 1, 1],
        np.array([0, 0, 1, 1]),
        torch.tensor([[0, 0], [1, 1]]),
    ],
    ids=str,
)
def test_a_mask_of_any_kind_keeps_the_tokens_that_it_marks(mask):
    rows = torch.arange(1.0, 5)[:, None]
    trace = lpr.traces.Trace(rows, "here", mask=mask)
    assert trace.layer(0).flatten().tolist() == [3, 4]


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        ([0, 1, 2, 0], "0 and 1"),
        ([0, 0.5, 1, 1], "0 and 1"),
        ([0, -1e9, 0, 0], "0 and 1"),
        ([0, 0, 0, 0], "marks every token"),
        ([[1, 1]], r"shape \(1, 2\)"),
        ([[[1]], [[1]], [[1]], [[1]]], r"shape \(4, 1, 1\)"),
        (np.ma.array([1, 1, 1, 1], mask=[0, 1, 0, 0]), "masked array"),
    ],
)
def test_a_mask_of_other_values_or_shape_is_refused(mask, says):
    with pytest.raises(lpr.InputError, match=f"here: mask.*{says}"):
        lpr.traces.Trace(torch.arange(4.0)[:, None], "here", mask=mask)


@pytest.mark.parametrize("suffix", NAMED)
def test_an_attention_mask_leaves_out_the_padding_and_tells_sequences_apart(tmp_path, suffix):
    real = torch.tensor([[0, 1, 1], [1, 1, 0]])
    for logits in (SIX, SIX[None], SIX.view(1, 2, 3, 3), SIX.view(2, 3, 3)):
        path = write(tmp_path / f"a{suffix}", router_logits=logits.clone(), attention_mask=real)
        trace = lpr.traces.read(path)
        assert torch.equal(trace.layer(0), SIX[[1, 2, 3, 4]])
        assert trace.real_sequence.tolist() == [0, 0, 1, 1]


def test_padding_is_no_part_of_the_value(tmp_path):
    """Eight tokens of padding with a share of 0.9 each, two real ones with 0.75 and 0.6."""
    shares = torch.tensor([0.9] * 8 + [0.75, 0.6])
    logits = torch.stack([shares, 1 - shares], 1).log()[None] + 3.0
    path = write(
        tmp_path / "a.npz", router_logits=logits, attention_mask=torch.tensor([[0] * 8 + [1] * 2])
    )
    trace = lpr.traces.read(path)
    problem = lpr.problems.token_choice(lpr.scores.softmax(trace.layer(0)), 1)
    assert lpr.solve(problem).value == pytest.approx(0.75 + 0.6, rel=1e-6)


def test_a_padding_mask_is_refused_since_libraries_mean_opposite_things(tmp_path):
    with pytest.raises(lpr.InputError, match=r"padding_mask marks padding in some.*attention_mask"):
        read_pt(tmp_path, router_logits=SIX, padding_mask=torch.ones(6))


def test_counts_repeat_rows_with_all_that_belongs_to_them(tmp_path):
    counts, sequence = torch.tensor([1, 0, 3, 1, 1, 1]), torch.arange(6)
    mask = torch.tensor([1, 1, 1, 1, 1, 0])
    content = {"router_logits": SIX, "mask": mask, "sequence": sequence}
    trace = read_pt(tmp_path, token_counts=counts, **content)
    assert torch.equal(trace.layer(0), SIX[[0, 2, 2, 2, 3, 4]])
    assert trace.real_sequence.tolist() == [0, 2, 2, 2, 3, 4]
    for wrong in (counts - 1, counts[:3], counts + 0.5, counts * 10**10):
        with pytest.raises(lpr.InputError, match="token_counts"):
            read_pt(tmp_path, token_counts=wrong, **content)


def test_keys_that_contradict_each_other_are_refused(tmp_path):
    one, other = torch.tensor([1, 1, 1, 1, 1, 0]), torch.tensor([1, 1, 1, 1, 0, 0])
    assert read_pt(tmp_path, router_logits=SIX, mask=one, attention_mask=one).mask.sum() == 5
    with pytest.raises(lpr.InputError, match="two keys mean mask and differ"):
        read_pt(tmp_path, router_logits=SIX, mask=one, attention_mask=other)
    with pytest.raises(lpr.InputError, match="the sparse form beside it"):
        read_pt(tmp_path, router_logits=SIX, expert_ids=IDS, probs=PROBS)
    with pytest.raises(lpr.InputError, match="num_experts is 4, the logits are of 3"):
        read_pt(tmp_path, router_logits=SIX, num_experts=4)


def test_what_the_model_says_is_kept(tmp_path):
    bias = torch.tensor([[0.5, -0.5, 0.0]])
    trace = read_pt(
        tmp_path,
        router_logits=SIX,
        num_experts_per_tok=2,
        scoring_func="sqrtsoftplus",
        capacity_factor=1.5,
        layer_names=["model.layers.3.mlp.gate"],
        e_score_correction_bias=bias[0],
    )
    assert (trace.k, trace.score, trace.capacity_factor) == (2, "sqrt_softplus", 1.5)
    assert trace.layer_names == ("model.layers.3.mlp.gate",)
    assert torch.equal(trace.bias, bias)
    for wrong, says in (
        ({"k": 4}, "k=4 is more than E"),
        ({"k": 0}, "k=0: it must be at least 1"),
        ({"capacity_factor": -1.0}, "capacity_factor=-1.0"),
        ({"layer_names": ["a", "b"]}, "expected 1 names"),
        ({"expert_bias": torch.zeros(2)}, "selection bias"),
        ({"expert_bias": torch.tensor([0.0, NAN, 0])}, "selection bias"),
    ):
        with pytest.raises(lpr.InputError, match=says):
            read_pt(tmp_path, router_logits=SIX, **wrong)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_probabilities_are_taken_only_by_word(tmp_path, suffix):
    shares = SIX.softmax(-1)
    path = write(tmp_path / f"p{suffix}", router_logits=shares)
    with pytest.raises(lpr.InputError, match=r"layer 0 is >= 0 and adds up to 1.*probabilities"):
        lpr.traces.read(path)
    trace = lpr.traces.read(path, values="probabilities")
    assert trace.up_to_a_constant
    torch.testing.assert_close(lpr.scores.softmax(trace.layer(0)), shares)
    with pytest.raises(lpr.InputError, match='expected "logits" or "probabilities"'):
        lpr.traces.read(path, values="shares")
    with pytest.raises(lpr.InputError, match="probabilities must be positive"):
        lpr.traces.read(write(path, router_logits=SIX), values="probabilities")


def test_logarithms_of_probabilities_are_known_up_to_a_constant(tmp_path):
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        logs = torch.randn(50, 64).log_softmax(-1).to(dtype)
        assert lpr.traces.Trace(logs, "here").up_to_a_constant
        assert not lpr.traces.Trace(logs + 0.25, "here").up_to_a_constant
    assert not lpr.traces.Trace(torch.cat([logs, logs[:1] + 1]), "here").up_to_a_constant
    assert not lpr.traces.Trace(torch.full((5, 3), float("-inf")), "here").up_to_a_constant
    path = write(tmp_path / "a.npz", router_logits=SIX.log_softmax(-1))
    assert lpr.traces.read(path).up_to_a_constant


@pytest.mark.parametrize("number", [torch.finfo(torch.float32).min, -1e9, -65504.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_number_that_stands_for_minus_infinity_forbids_the_pair(number, dtype):
    """Three tokens that want one expert each of three, the third of which none may have."""
    if number == torch.finfo(torch.float32).min and dtype == torch.bfloat16:
        number = torch.finfo(dtype).min
    logits = torch.tensor([[1.0, 0.0, number]], dtype=dtype).repeat(3, 1)
    trace = lpr.traces.Trace(logits, "here")
    assert trace.layer(0)[:, 2].tolist() == [float("-inf")] * 3
    for score in (lpr.scores.softmax, lpr.scores.sigmoid, lpr.scores.logits):
        scores = score(logits)
        assert scores[:, 2].tolist() == [float("-inf")] * 3
        problem = lpr.RoutingProblem(scores, tokens=lpr.exactly(1), experts=lpr.exactly(1))
        assert lpr.solve(problem).status.name == "INFEASIBLE"
    assert lpr.scores.logits(torch.tensor([[-6e4, 1.0]]))[0, 0] == -6e4


def test_masked_arrays_are_refused_where_something_is_masked():
    plain = np.ones((2, 2))
    assert lpr.RoutingProblem(np.ma.array(plain)).T == 2
    for masked in (np.ma.array(plain, mask=np.eye(2)), [np.ma.array([1, 2.0], mask=[0, 1])]):
        with pytest.raises(lpr.InputError, match="masked array"):
            lpr.RoutingProblem(masked)
        with pytest.raises(lpr.InputError, match="masked array"):
            lpr.scores.softmax(masked)
        with pytest.raises(lpr.InputError, match="masked array"):
            lpr.traces.Trace(masked, "here")


def test_axes_are_read_as_said_or_as_the_mask_shows(tmp_path):
    layers = torch.randn(4, 6, 3)  # [L, T, E]
    tokens_first, batch = layers.transpose(0, 1), layers.view(4, 2, 3, 3)

    def found(logits, **said):
        axes = said.pop("axes", None)
        torch.save({"router_logits": logits, **said}, tmp_path / "a.pt")
        return lpr.traces.read(tmp_path / "a.pt", axes=axes).router_logits

    mask, rows = torch.ones(6), torch.ones(2, 3)
    for logits, said in (
        (layers, {}),
        (layers, {"mask": mask}),
        (layers, {"mask": rows}),
        (tokens_first, {"axes": "TLE"}),
        (tokens_first, {"mask": mask}),
        (tokens_first, {"attention_mask": rows}),
        (batch, {"axes": "LBSE"}),
        (batch, {"attention_mask": rows}),
        (batch.permute(1, 2, 0, 3), {"attention_mask": rows}),
        (list(layers), {}),
        (tuple(batch), {"attention_mask": rows}),
        (tuple(batch), {}),
        (layers.permute(2, 0, 1), {"axes": "ELT"}),
    ):
        assert torch.equal(found(logits, **said), layers), (tuple(np.shape(logits)), said)
    key = {"router_logits": tokens_first, "axes": "TLE"}
    assert torch.equal(read_pt(tmp_path, **key).router_logits, layers)


@pytest.mark.parametrize(
    ("logits", "said", "says"),
    [
        (torch.randn(6, 2, 3), {}, "can be read in more than one order"),
        (torch.randn(4, 4, 3), {}, "can be read in more than one order"),
        (torch.randn(4, 4, 3), {"mask": torch.ones(4)}, "can be read in more than one order"),
        (torch.randn(2, 2, 3, 3), {}, "can be read in more than one order"),
        (torch.randn(2, 2, 2, 3), {"mask": torch.ones(2, 2)}, "more than one order"),
        (list(torch.randn(2, 3, 3, 4)), {}, "can be read in more than one order"),
        (torch.randn(2, 6, 3), {"mask": torch.ones(5)}, r"mask has shape \(5,\)"),
        (torch.randn(2, 6, 3), {"axes": "LTEE"}, "axes='LTEE': expected an order"),
        (torch.randn(2, 6, 3), {"axes": "LBE"}, "axes='LBE': expected an order"),
        (torch.randn(2, 6, 3), {"axes": "TE"}, "axes='TE': expected an order"),
        ([torch.randn(6, 3), torch.randn(5, 3)], {}, r"layer 0 has shape \(6, 3\) and layer 1"),
        ([torch.randn(6, 3), torch.randn(6, 4)], {}, r"layer 0 has shape \(6, 3\) and layer 1"),
        ([], {}, "with at least one of each"),
    ],
)
def test_axes_in_doubt_are_refused(tmp_path, logits, said, says):
    with pytest.raises(lpr.InputError, match=says):
        read_pt(tmp_path, router_logits=logits, **said)


def test_sequences_that_the_axes_tell_apart_have_their_own_numbers(tmp_path):
    # Two sequences of three tokens; with the axes the other way round, three of two.
    batch = SIX.view(2, 3, 3)
    for axes, sequence in (("BSE", [0, 0, 0, 1, 1, 1]), ("SBE", [0, 0, 1, 1, 2, 2])):
        assert read_pt(tmp_path, router_logits=batch, axes=axes).sequence.tolist() == sequence


def test_an_expert_named_twice_is_found_wherever_it_stands(tmp_path):
    ids = torch.tensor([[[0, 1, 2], [2, 1, 2]]])
    probs = torch.tensor([[[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]])
    with pytest.raises(lpr.InputError, match="layer 0, token 1 names an expert twice"):
        read_pt(tmp_path, expert_ids=ids, probs=probs)


@pytest.mark.parametrize("kind", [list, tuple])
def test_what_transformers_gives_is_read_as_torch_saves_it(tmp_path, kind):
    layers = kind(torch.randn(7, 3).bfloat16().requires_grad_() for _ in range(2))
    torch.save(layers, tmp_path / "a.pt")
    found = lpr.traces.read(tmp_path / "a.pt").router_logits
    assert torch.equal(found, torch.stack([layer.detach() for layer in layers]))
    assert found.dtype == torch.bfloat16
    assert not found.requires_grad


def test_sentinels_are_fine_under_the_mask_alone(tmp_path):
    for ids in (IDS.clone(), IDS.to(torch.int8)):
        ids[0, 1] = 255 if ids.dtype == torch.uint8 else -1
        probs = PROBS.clone()
        probs[0, 1] = NAN
        content = {"expert_ids": ids, "probs": probs}
        with pytest.warns(UserWarning, match="more experts"):
            trace = read_pt(tmp_path, mask=torch.tensor([1, 0, 1]), **content)
        assert trace.router_logits.shape == (1, 3, 4)
        assert trace.layer(0).exp().nan_to_num(0)[0].tolist() == [0.75, 0.25, 0, 0]
        with pytest.raises(lpr.InputError, match=r"sentinel|expert_ids run from -1"):
            read_pt(tmp_path, **content)


def test_sparse_shares_below_1_stay_what_they_are(tmp_path):
    """One token an expert: 0.9 at expert 0, 0.1 at expert 1, 0.3 at expert 2: 1.30."""
    ids = torch.tensor([[0, 1], [0, 1], [0, 1], [0, 2]])
    probs = torch.tensor([[0.9, 0.05], [0.2, 0.1], [0.15, 0.1], [0.5, 0.3]])
    trace = read_pt(tmp_path, expert_ids=ids, probs=probs, num_experts=4)
    scores = lpr.scores.probabilities(trace.layer(0))
    assert trace.up_to_a_constant
    problem = lpr.problems.capacity(scores, k=1, capacity=1)
    assert lpr.solve(problem).value == pytest.approx(1.30, rel=1e-6)
    with pytest.raises(lpr.InputError, match=r"probs add up to 1\.425 for a token"):
        read_pt(tmp_path, expert_ids=ids, probs=probs * 1.5, num_experts=4)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_saved_trace_is_read_back_as_it_was(tmp_path, suffix, dtype):
    trace = lpr.traces.Trace(
        torch.randn(2, 6, 3).to(dtype),
        "here",
        mask=[[1, 1, 0], [1, 1, 1]],
        k=2,
        score="sigmoid",
        capacity_factor=1.5,
        layer_names=("a", "b"),
        bias=torch.randn(2, 3),
    )
    path = tmp_path / f"a{suffix}"
    path.write_text("an older file")
    trace.save(path)
    again = lpr.traces.read(path)
    assert again.router_logits.dtype == dtype
    for name in ("router_logits", "mask", "sequence", "bias"):
        assert torch.equal(getattr(again, name), getattr(trace, name))
    for name in ("k", "score", "capacity_factor", "layer_names", "up_to_a_constant"):
        assert getattr(again, name) == getattr(trace, name)
    assert list(tmp_path.iterdir()) == [path]


def test_a_trace_of_partial_shares_is_saved_as_one(tmp_path):
    trace = lpr.traces.Trace(torch.randn(6, 3) - 9, "here", up_to_a_constant=True)
    trace.save(tmp_path / "a.npz")
    assert lpr.traces.read(tmp_path / "a.npz").up_to_a_constant


def test_where_a_trace_cannot_be_saved_it_is_said(tmp_path):
    trace = lpr.traces.Trace(SIX, "here")
    for name, says in (("a.pt", "ending in .npz or .safetensors"), ("no/a.npz", "be written")):
        with pytest.raises(lpr.InputError, match=says):
            trace.save(tmp_path / name)


def test_bfloat16_of_ml_dtypes_is_read_from_npz_bit_by_bit(tmp_path):
    """numpy writes it as two raw bytes an entry, with or without `ml_dtypes` at hand."""
    logits = torch.randn(2, 5, 3).bfloat16()
    np.savez(tmp_path / "a.npz", router_logits=logits.view(torch.int16).numpy().view("V2"))
    assert torch.equal(lpr.traces.read(tmp_path / "a.npz").router_logits, logits)
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = logits.float().numpy().astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "b.npz", router_logits=array)
    assert torch.equal(lpr.traces.read(tmp_path / "b.npz").router_logits, logits)
    assert torch.equal(lpr.traces.Trace(array, "here").router_logits, logits)
    assert torch.equal(lpr.RoutingProblem(array[0]).scores, logits[0])


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_a_flipped_byte_is_found_by_its_checksum(tmp_path, suffix):
    logits = torch.full((2, 50, 3), 1.5)
    path = write(tmp_path / f"a{suffix}", router_logits=logits, mask=torch.ones(50).int())
    whole = bytearray(path.read_bytes())
    place = whole.index(logits.numpy().tobytes()[:64]) + 2
    whole[place] ^= 0x40
    path.write_bytes(whole)
    with pytest.raises(lpr.InputError, match=r"does not have its checksum"):
        lpr.traces.read(path)


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_a_flipped_bit_anywhere_changes_nothing_or_is_refused(tmp_path, suffix):
    content = {"router_logits": LOGITS, "mask": torch.tensor([1, 1, 1, 1, 0]), "k": torch.tensor(2)}
    path = write(tmp_path / f"a{suffix}", **content)
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            trace = lpr.traces.read(path)
        except lpr.InputError:
            refused += 1
        else:
            assert torch.equal(trace.router_logits, LOGITS)
            assert (trace.k, trace.mask.tolist()) == (2, [True] * 4 + [False])
    assert refused > len(whole) / 8


def test_bytes_after_an_npy_array_are_damage(tmp_path):
    path = write(tmp_path / "a.npy", router_logits=LOGITS)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(2, 5, 3)", b"(2, 2, 3)"))
    with pytest.raises(lpr.InputError, match="bytes after its array"):
        lpr.traces.read(path)


@pytest.mark.parametrize(
    ("logits", "says"),
    [
        (torch.randn(3, 8), r"more experts \(8\) than tokens \(3\)"),
        (torch.rand(8, 3) * 0.9, "scores after a sigmoid"),
        (-torch.rand(8, 3) * 0.9, "negated scores"),
        (torch.full((8, 3), 2.0), "every logit is 2"),
    ],
)
def test_what_hardly_looks_like_logits_earns_a_warning(tmp_path, logits, says):
    with pytest.warns(UserWarning, match=says) as told:
        read_pt(tmp_path, router_logits=logits)
    assert len(told) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_tuple_of_tensors_in_memory_is_read_in_every_precision(dtype):
    layers = tuple(torch.randn(3, 4).to(dtype).requires_grad_() for _ in range(2))
    trace = lpr.traces.Trace(layers, "a model's router_logits")
    assert torch.equal(trace.router_logits, torch.stack(layers).detach())


def test_other_names_of_masks_and_biases_are_used_or_refused(tmp_path):
    logits, mask = torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 1, 1])
    for name in ("attn_mask", "token_mask"):
        torch.save({"router_logits": logits, name: mask}, tmp_path / "a.pt")
        assert torch.equal(lpr.traces.read(tmp_path / "a.pt").layer(0), logits[2:])
    torch.save({"router_logits": logits, "correction_bias": torch.ones(3)}, tmp_path / "a.pt")
    assert lpr.traces.read(tmp_path / "a.pt").bias is not None
    torch.save({"router_logits": logits, "router_bias": torch.ones(3)}, tmp_path / "a.pt")
    with pytest.raises(lpr.InputError, match="save it as expert_bias"):
        lpr.traces.read(tmp_path / "a.pt")


def test_a_pt_file_without_checksums_is_read_with_a_warning(tmp_path):
    logits = torch.randn(6, 3)
    torch.save(logits, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    with pytest.warns(UserWarning, match="without checksums"):
        assert torch.equal(lpr.traces.read(tmp_path / "a.pt").layer(0), logits)


@pytest.mark.parametrize("low", [-1e4, -1e6, -1e30])
def test_numbers_that_look_like_masks_earn_a_warning(tmp_path, low):
    torch.save(torch.tensor([[1.0, 0.0], [2.0, low], [0.0, 1.0]]), tmp_path / "a.pt")
    with pytest.warns(UserWarning, match="do they forbid the pair"):
        lpr.traces.read(tmp_path / "a.pt")
