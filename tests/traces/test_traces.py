"""Readers of router logits: every format, the sparse form, broken files, the shipped sample."""

import gc
import warnings
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

import lp_routing as lpr

SUFFIXES = (".npz", ".npy", ".safetensors", ".pt")
NAMED = (".npz", ".safetensors", ".pt")
GPT_OSS = Path(__file__).parents[3] / "shared" / "data" / "gpt_oss_20b_mmlu_dev.npz"

NAN = float("nan")
LOGITS = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[[0, 1], [2, 1], [3, 0]]], dtype=torch.uint8)
PROBS = torch.tensor([[[0.75, 0.25], [0.5, 0.5], [0.875, 0.125]]])


def write(path: Path, **tensors: Tensor) -> Path:
    """Save tensors under their names; `.npy` holds the logits alone."""
    if path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})
    elif path.suffix == ".npy":
        np.save(path, tensors["router_logits"].numpy())
    elif path.suffix == ".safetensors":
        path.write_bytes(safetensors_bytes(tensors))
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_back_the_very_logits(tmp_path, suffix, dtype):
    logits = LOGITS.to(dtype)
    logits[0, 1, 2] = float("-inf")
    path = write(tmp_path / f"logits{suffix}", router_logits=logits)
    trace = lpr.traces.read(path)
    assert trace.router_logits.dtype == dtype
    assert torch.equal(trace.router_logits, logits)
    assert (trace.layers, trace.source) == (2, str(path))
    assert trace.mask is None
    assert trace.sequence is None
    assert torch.equal(lpr.traces.read(str(path)).layer(1), logits[1])
    matrix = lpr.traces.read(write(path, router_logits=logits[0].clone()))  # [T, E]: one layer
    assert torch.equal(matrix.router_logits, logits[:1])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_bfloat16_is_kept(tmp_path, suffix):
    logits = LOGITS.bfloat16()
    trace = lpr.traces.read(write(tmp_path / f"half{suffix}", router_logits=logits))
    assert trace.router_logits.dtype == torch.bfloat16
    assert torch.equal(trace.router_logits, logits)


@pytest.mark.parametrize("content", [LOGITS, {"router_logits": LOGITS, "k": [2]}])
def test_a_pt_file_may_be_one_tensor_or_hold_more_than_tensors(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    assert torch.equal(lpr.traces.read(tmp_path / "a.pt").router_logits, LOGITS)


def test_keys_that_are_not_used_are_named_once(tmp_path):
    beside = {"model": np.array(["a name"]), "loss": np.ones(3)}
    np.savez(tmp_path / "a.npz", router_logits=LOGITS.numpy(), **beside)
    torch.save({"router_logits": LOGITS, "model": "a name", "loss": 1.5}, tmp_path / "a.pt")
    for suffix in (".npz", ".pt"):
        with pytest.warns(UserWarning, match=rf"a\{suffix}: not used: model, loss\.$") as told:
            trace = lpr.traces.read(tmp_path / f"a{suffix}")
        assert len(told) == 1
        assert torch.equal(trace.router_logits, LOGITS)


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_big_endian_logits_are_read_as_numpy_reads_them(tmp_path, suffix):
    swapped = LOGITS.numpy().astype(">f4")
    path = tmp_path / f"big{suffix}"
    np.savez(path, router_logits=swapped) if suffix == ".npz" else np.save(path, swapped)
    assert torch.equal(lpr.traces.read(path).router_logits, LOGITS)


@pytest.mark.parametrize("name", ["logits ünï 漢.npz", "[bold]logits[red].npz", "UPPER.NPZ"])
def test_unusual_file_names_are_read(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        np.savez(file, router_logits=LOGITS.numpy())
    assert torch.equal(lpr.traces.read(tmp_path / name).router_logits, LOGITS)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
@pytest.mark.parametrize("suffix", NAMED)
def test_the_mask_removes_padding_from_every_layer(tmp_path, suffix, dtype):
    real = torch.tensor([1, 1, 0, 1, 0]).to(dtype)
    trace = lpr.traces.read(write(tmp_path / f"m{suffix}", router_logits=LOGITS, mask=real))
    assert trace.mask.dtype == torch.bool
    for layer in range(2):
        assert torch.equal(trace.layer(layer), LOGITS[layer, [0, 1, 3]])


@pytest.mark.parametrize("name", ["sequence", "request"])
@pytest.mark.parametrize("suffix", NAMED)
def test_the_sequence_of_each_token_is_kept(tmp_path, suffix, name):
    of = torch.tensor([0, 0, 1, 1, 2], dtype=torch.int16)
    path = write(tmp_path / f"s{suffix}", router_logits=LOGITS, **{name: of})
    assert lpr.traces.read(path).sequence.tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (
            {"mask": torch.tensor([1, 2, 0, 0, 1])},
            "mask must hold booleans.* other values in torch.int64",
        ),
        ({"mask": torch.tensor([1, 0.5, 0, 0, 1])}, "mask must hold .* values in torch.float32"),
        ({"mask": torch.tensor([1, NAN, 0, 0, 1])}, "mask must hold .* values in torch.float32"),
        ({"mask": torch.zeros(5, dtype=torch.bool)}, "mask marks every token as padding"),
        ({"mask": torch.ones(4, dtype=torch.bool)}, r"mask has shape \(4,\), .* of the 5 tokens"),
        ({"sequence": torch.arange(6)}, r"sequence has shape \(6,\), .* of the 5 tokens"),
    ],
)
@pytest.mark.parametrize("suffix", NAMED)
def test_a_mask_or_sequence_that_does_not_fit_is_refused(tmp_path, suffix, extra, says):
    path = write(tmp_path / f"m{suffix}", router_logits=LOGITS, **extra)
    with pytest.raises(lpr.InputError, match=f"m{suffix}: {says}"):
        lpr.traces.read(path)


@pytest.mark.parametrize(
    ("logits", "says"),
    [
        (torch.zeros(3), r"got torch.float32 of shape \(3,\)"),
        (torch.zeros(1, 2, 5, 3), r"shape \(1, 2, 5, 3\) can be read in more than one order"),
        (torch.zeros(5, 3, dtype=torch.int32), r"got torch.int32 of shape \(1, 5, 3\)"),
        (torch.zeros(2, 0, 3), r"at least one of each, got torch.float32 of shape \(2, 0, 3\)"),
        (torch.tensor([[0.0, float("nan")]]), r"router_logits\[0, 0, 1\] is nan \(1 such"),
        (torch.tensor([[0.0], [float("inf")]]), r"router_logits\[0, 1, 0\] is inf \(1 such"),
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_logits_that_cannot_be_routed_are_refused_in_every_format(tmp_path, suffix, logits, says):
    path = write(tmp_path / f"bad{suffix}", router_logits=logits)
    with pytest.raises(lpr.InputError, match=f"bad{suffix}: .*{says}"):
        lpr.traces.read(path)


@pytest.mark.parametrize("suffix", NAMED)
def test_a_missing_key_names_what_was_found(tmp_path, suffix):
    path = write(tmp_path / f"other{suffix}", gates=LOGITS, bias=LOGITS[0].clone())
    with pytest.raises(lpr.InputError, match=r"expected the key 'router_logits' .* found") as got:
        lpr.traces.read(path)
    assert {"gates", "bias"} <= set(str(got.value).split("found ")[1].strip(".").split(", "))
    with pytest.raises(lpr.InputError, match=r"found nothing\.$"):
        lpr.traces.read(write(tmp_path / f"empty{suffix}"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_cut_short_anywhere_is_refused(tmp_path, suffix):
    whole = write(tmp_path / f"whole{suffix}", router_logits=LOGITS).read_bytes()
    path = tmp_path / f"cut{suffix}"
    read = []
    for length in [*range(0, len(whole), 1 + len(whole) // 400), len(whole) - 1]:
        path.write_bytes(whole[:length])
        try:
            read.append((length, lpr.traces.read(path)))
        except lpr.InputError as error:
            assert str(path) in str(error)  # noqa: PT017
            assert "truncated" in str(error)  # noqa: PT017
    assert not read
    path.write_bytes(whole)
    assert torch.equal(lpr.traces.read(path).router_logits, LOGITS)


@pytest.mark.parametrize(("suffix", "other"), list(permutations(SUFFIXES, 2)))
def test_a_file_under_the_suffix_of_another_format_is_refused(tmp_path, suffix, other):
    path = write(tmp_path / f"a{suffix}", router_logits=LOGITS).rename(tmp_path / f"b{other}")
    with pytest.raises(
        lpr.InputError, match=f"b{other}: .*(cannot be read as|is not an|expected the key)"
    ):
        lpr.traces.read(path)


def test_a_file_that_is_refused_is_closed(tmp_path):
    content = write(tmp_path / "whole.npz", router_logits=LOGITS).read_bytes()[:100]
    for suffix in SUFFIXES:
        (tmp_path / f"a{suffix}").write_bytes(content)
        with warnings.catch_warnings(record=True) as left_open:
            warnings.simplefilter("always")
            with pytest.raises(lpr.InputError, match=f"a{suffix}"):
                lpr.traces.read(tmp_path / f"a{suffix}")
            gc.collect()
        assert [str(warning.message) for warning in left_open] == []


def test_the_sparse_form_forbids_all_that_was_not_recorded(tmp_path):
    for suffix in NAMED:
        path = write(tmp_path / f"s{suffix}", expert_ids=IDS, probs=PROBS, request=torch.arange(3))
        with pytest.warns(UserWarning, match=r"more experts \(4\) than tokens \(3\)"):
            trace = lpr.traces.read(path)
        never = float("-inf")
        expected = torch.tensor(
            [[0.75, 0.25, never, never], [never, 0.5, 0.5, never], [0.125, never, never, 0.875]]
        )
        expected = torch.where(expected > 0, expected.log(), never)
        assert torch.equal(trace.router_logits, expected[None])
        assert trace.sequence.tolist() == [0, 1, 2]


def test_the_sparse_form_takes_one_layer_and_a_number_of_experts(tmp_path):
    E = torch.tensor(7)
    path = write(tmp_path / "s.npz", expert_ids=IDS[0], probs=PROBS[0].half(), num_experts=E)
    with pytest.warns(UserWarning, match="more experts"):
        trace = lpr.traces.read(path)
    assert trace.router_logits.shape == (1, 3, 7)
    assert trace.router_logits.isfinite().sum(-1).tolist() == [[2, 2, 2]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"expert_ids": IDS[..., :1]}, r"one shape .* \(1, 3, 1\) and torch.float32 \(1, 3, 2\)"),
        ({"expert_ids": IDS.short() - 1}, r"expert_ids run from -1 to 2, outside 0\.\.2"),
        ({"num_experts": torch.tensor(3)}, r"expert_ids run from 0 to 3, outside 0\.\.2"),
        ({"num_experts": torch.tensor([8, 9])}, r"num_experts"),
        ({"expert_ids": IDS[:, :0], "probs": PROBS[:, :0]}, r"at least one"),
        ({"expert_ids": IDS[..., :0], "probs": PROBS[..., :0]}, r"at least one"),
        ({"probs": PROBS - 0.125}, r"probs must be positive; found 0"),
        ({"probs": PROBS * float("nan")}, r"probs must be positive; found nan"),
        ({"expert_ids": IDS * 0}, r"layer 0, token 0 names an expert twice"),
    ],
)
def test_a_sparse_form_that_contradicts_itself_is_refused(tmp_path, change, says):
    path = write(tmp_path / "s.npz", **{"expert_ids": IDS, "probs": PROBS, **change})
    with pytest.raises(lpr.InputError, match=f"s.npz: .*({says})"):
        lpr.traces.read(path)


@pytest.mark.skipif(not GPT_OSS.exists(), reason="the gpt-oss trace is not part of the project")
def test_the_gpt_oss_file_is_read():
    trace = lpr.traces.read(GPT_OSS)
    with np.load(GPT_OSS, allow_pickle=False) as arrays:
        ids, probs = (torch.from_numpy(arrays[name]) for name in ("expert_ids", "probs"))
        request = arrays["request"]
    assert trace.router_logits.shape == (24, 10591, 32)
    assert bool((trace.router_logits.isfinite().sum(-1) == 4).all())
    observed = trace.router_logits.gather(-1, ids.long())
    assert torch.equal(observed, probs.float().log())
    assert trace.sequence.tolist() == request.tolist()


def test_the_sample_is_whole_and_in_reading_order():
    trace = lpr.traces.sample()
    assert trace.router_logits.shape == (4, 4096, 32)
    assert bool(trace.router_logits.isfinite().all())
    assert bool((trace.router_logits.float().std(-1) > 0).all())
    assert (trace.source, trace.mask) == ("the sample trace", None)
    assert bool((trace.sequence.diff() >= 0).all())
    assert trace.sequence.unique(return_counts=True)[1].tolist() == [256] * 16
