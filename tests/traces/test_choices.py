"""Recorded choices: every form gives the same experts; what does not fit is refused or counted."""

import csv
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import lp_routing as lpr
from lp_routing.traces import RecordedChoices, read_choices

# three tokens, two layers, two experts each, of four
IDS = torch.tensor([[[0, 1], [2, 0], [3, 1]], [[1, 2], [0, 3], [2, 3]]])
LOADS = [[2, 2, 1, 1], [1, 1, 2, 2]]


def agrees(found, names=("0", "1")):
    assert found.expert_ids.sort(-1).values.tolist() == IDS.sort(-1).values.tolist()
    assert (found.experts, found.k, found.layer_names) == (4, 2, names)
    assert found.loads().tolist() == LOADS


def test_loads_and_pairs_by_hand():
    found = RecordedChoices(torch.tensor([[[0, 2], [1, -1], [2, 0]]]), 3, "mine", ("0",))
    assert found.chosen(0).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert found.loads().tolist() == [[2, 1, 2]]
    with pytest.raises(lpr.InputError, match="layer"):
        found.chosen(1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_arrays_of_engines(tmp_path, dtype):
    # vLLM and SGLang return [tokens, layers, k]; the ending of a file does not matter
    torch.save({"routed_experts": IDS.transpose(0, 1).to(dtype)}, tmp_path / "a.pt")
    save_file({"expert_ids": IDS.to(dtype)}, tmp_path / "a.dump")
    np.savez(tmp_path / "b.npz", topk_ids=IDS.numpy())
    np.save(tmp_path / "c.npy", IDS.numpy())
    agrees(read_choices(tmp_path / "a.pt"))
    agrees(read_choices(tmp_path / "a.dump"))
    agrees(read_choices(tmp_path / "b.npz"))
    agrees(read_choices(tmp_path / "c.npy", axes="LTK"))


def test_unsigned_words_are_read_too(tmp_path):
    np.savez(tmp_path / "a.npz", expert_ids=IDS.numpy().astype(np.uint16))
    agrees(read_choices(tmp_path / "a.npz"))


def test_a_matrix_is_one_layer(tmp_path):
    np.save(tmp_path / "a.npy", IDS[0].numpy())
    assert read_choices(tmp_path / "a.npy", experts=4).loads().tolist() == LOADS[:1]


@pytest.mark.parametrize(
    ("none", "dtype", "experts"),
    [
        (-1, np.int64, None),
        (-7, np.int32, 4),
        (255, np.uint8, None),
        (255, np.int32, 4),
        (65535, np.uint16, 4),
    ],
)
def test_places_without_an_expert(tmp_path, none, dtype, experts):
    ids = np.array([[[0, 3], [1, none], [none, none]]]).astype(dtype)
    np.savez(tmp_path / "a.npz", expert_ids=ids)
    found = read_choices(tmp_path / "a.npz", experts=experts)
    assert found.expert_ids.tolist() == [[[0, 3], [1, -1], [-1, -1]]]
    assert found.loads().tolist() == [[1, 1, 0, 1]]


def test_expert_255_of_256_is_an_expert(tmp_path):
    np.savez(tmp_path / "a.npz", expert_ids=np.array([[[255, 3], [1, 2]]], dtype=np.int32))
    assert read_choices(tmp_path / "a.npz", experts=256).loads()[0, 255] == 1
    assert read_choices(tmp_path / "a.npz").experts == 256


def megatron(folder, logits=None, steps=(0,), layers=2, ranks=(slice(0, 2), slice(2, 3))):
    """A router trace: the first two tokens on rank 0, the third on rank 1."""
    folder.mkdir(exist_ok=True)
    for rank, some in enumerate(ranks):
        offset = 0
        with (
            (folder / f"router_trace_rank{rank}.jsonl").open("w") as trace,
            (folder / f"logits_rank{rank}.bin").open("wb") as dump,
        ):
            for step in steps:
                for layer in range(layers):
                    record = {
                        "step": step,
                        "stage": "pre_dispatch",
                        "block": "decoder",
                        "layer": layer,
                        "rank": rank,
                        "num_tokens": len(IDS[layer, some]),
                        "topk": 2,
                        "top_indices": IDS[layer, some].tolist(),
                    }
                    if logits is not None:
                        part = logits[layer, some].bfloat16()
                        raw = part.contiguous().view(torch.int16).numpy().tobytes()
                        dump.write(raw)
                        record |= {
                            "logit_offset": offset,
                            "logit_bytes": len(raw),
                            "logit_shape": list(part.shape),
                        }
                        offset += len(raw)
                    trace.write(json.dumps(record) + "\n")


def test_a_router_trace_of_megatron_is_merged_over_ranks(tmp_path):
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    megatron(tmp_path / "trace", logits)
    found = read_choices(tmp_path / "trace")
    agrees(found)
    assert found.expert_ids.tolist() == IDS.tolist()
    assert found.logits.dtype == torch.bfloat16
    assert torch.equal(found.logits, logits)
    one = read_choices(tmp_path / "trace" / "router_trace_rank0.jsonl")
    assert one.expert_ids.tolist() == IDS[:, :2].tolist()


def test_a_trace_without_its_logits_still_gives_choices(tmp_path):
    megatron(tmp_path / "trace", torch.randn(2, 3, 4))
    for path in (tmp_path / "trace").glob("*.bin"):
        path.unlink()
    found = read_choices(tmp_path / "trace")
    agrees(found)
    assert found.logits is None


def test_a_cut_trace_keeps_whole_steps_and_says_so(tmp_path):
    megatron(tmp_path / "trace", steps=(0, 1))
    path = tmp_path / "trace" / "router_trace_rank1.jsonl"
    path.write_text(path.read_text()[:-30])  # the last line, layer 1 of step 1, is cut
    with (
        pytest.warns(UserWarning, match=r"1 broken line\(s\) left out, 7 kept"),
        pytest.warns(UserWarning, match=r"1 step\(s\) without all layers left out"),
    ):
        agrees(read_choices(tmp_path / "trace"))


def test_layers_of_prediction_heads_come_after_the_decoder(tmp_path):
    lines = [
        {"block": "mtp", "mtp_idx": 0, "layer": 0, "top_indices": [[1]]},
        {"block": "decoder", "layer": 10, "top_indices": [[2]]},
        {"block": "decoder", "layer": 9, "top_indices": [[0]]},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(each) for each in lines))
    found = read_choices(tmp_path / "a.jsonl")
    assert found.layer_names == ("9", "10", "mtp0.0")
    assert found.expert_ids.flatten().tolist() == [0, 2, 1]


def rows(layer, token, expert):
    return [
        {layer: f"layers.{j}" if "key" in layer else j, token: i, expert: str(e), "weight": 0.5}
        for j in range(2)
        for i in range(3)
        for e in IDS[j, i].tolist()
    ]


@pytest.mark.parametrize(
    "names", [("layer", "token", "expert"), ("layer_id", "token_idx", "expert_id")]
)
def test_one_expert_a_row(tmp_path, names):
    table = rows(*names)
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in table))
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    agrees(read_choices(tmp_path / "a.jsonl"))
    agrees(read_choices(tmp_path / "a.csv"))


def test_rows_of_moe_atlas(tmp_path):
    table = [
        {
            **row,
            "event_type": "routing",
            "selected": True,
            "expert_key": f"x.experts.{row['expert_key']}",
        }
        for row in rows("layer_key", "token_key", "expert_key")
    ]
    rejected = {**table[0], "selected": False, "expert_key": "x.experts.3"}
    other = {"event_type": "token", "token_key": "t"}
    lines = [other, rejected, *table]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in lines))
    agrees(read_choices(tmp_path / "a.jsonl"), ("layers.0", "layers.1"))


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows("layer", "token", "expert")), tmp_path / "a")
    agrees(read_choices(tmp_path / "a"))


def test_tokens_of_other_sequences_are_others(tmp_path):
    table = [
        {"layer": 0, "seq_id": s, "pos": i, "expert": e}
        for s, i, e in [(0, 0, 1), (0, 1, 0), (1, 0, 2), (1, 1, 1)]
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in table))
    assert read_choices(tmp_path / "a.jsonl").expert_ids.flatten().tolist() == [1, 0, 2, 1]


def test_records_of_a_token_with_a_list(tmp_path):
    lines = [
        {"layer": j, "token_idx": i, "topk_ids": IDS[j, i].tolist()}
        for j in range(2)
        for i in range(3)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(each) for each in lines))
    agrees(read_choices(tmp_path / "a.jsonl"))


@pytest.mark.filterwarnings("ignore:.*broken line")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"layer": 0, "token": 0}', "no column says the expert"),
        ('{"layer": 0, "expert": 0}', "no column says the token"),
        ("layer,expert\n0,1\n", "no column says the token"),
        (
            '{"layer": 0, "token": 0, "expert": "last"}',
            "expected a number, or a name ending in one",
        ),
        (
            '{"layer": 0, "token": 0, "expert": 1}\n{"layer": 1, "token": 1, "expert": 1}\n'
            '{"layer": 1, "token": 0, "expert": 1}',
            "layer 0 has 1 tokens, layer 1 2",
        ),
        (
            '{"layer": 0, "token": 0, "expert": 1}\n{"layer": 0, "token": 0, "expert": 1}',
            "layer 0, token 0 names an expert twice",
        ),
        ('{"layer": 0, "top_indices": [[1, 2], [3]]}', "no list of experts"),
        ('{"layer": 0.5, "top_indices": [[1]]}', "expected a whole number"),
        ('{"top_indices": [[1]]}', "says none of layer"),
        ('{"layer": 0, "top_indices": [[1]]}\n{"layer": 0, "top_indices": [[1, 2]]}', "one number"),
        ("{broken", "no record that can be read"),
        ("", "no record of a chosen expert"),
    ],
)
def test_records_that_do_not_fit_are_refused(tmp_path, content, words):
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(lpr.InputError, match=words):
        read_choices(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ({"expert_ids": IDS}, {"experts": 3}, "took expert 3, beyond the last of 3"),
        ({"expert_ids": IDS.double()}, {}, "expected whole numbers of experts, got torch.float64"),
        ({"expert_ids": IDS > 1}, {}, "got torch.bool"),
        ({"logits": IDS}, {}, "expected one of the keys"),
        ({"expert_ids": IDS, "topk_ids": IDS}, {}, "expected one of the keys"),
        ({"expert_ids": IDS}, {"axes": "TKL"}, "or read_choices|say which"),
        ({"expert_ids": torch.full((1, 2, 2), -1)}, {}, "no token took any expert"),
        ({"expert_ids": torch.zeros(1, 2, 2, dtype=torch.long)}, {}, "names an expert twice"),
        ({"expert_ids": IDS, "layer_names": ["one"]}, {}, "1 layer_names for 2 layers"),
        ({"expert_ids": IDS, "num_experts": 2}, {}, "beyond the last of 2"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, content, options, words):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(lpr.InputError, match=words):
        read_choices(tmp_path / "a.pt", **options)


def test_a_bare_array_of_three_axes_is_not_guessed(tmp_path):
    np.save(tmp_path / "a.npy", IDS.numpy())
    with pytest.raises(lpr.InputError, match='axes="TLK"'):
        read_choices(tmp_path / "a.npy")


def test_logits_of_another_run_are_refused(tmp_path):
    megatron(tmp_path / "trace", torch.randn(2, 3, 4))
    path = tmp_path / "trace" / "logits_rank0.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(lpr.InputError, match="the file is cut or of another run"):
        read_choices(tmp_path / "trace")


def test_what_is_not_there(tmp_path):
    with pytest.raises(lpr.InputError, match="no such file"):
        read_choices(tmp_path / "none.jsonl")
    with pytest.raises(lpr.InputError, match="without router_trace_rank"):
        read_choices(tmp_path)
    with pytest.raises(lpr.InputError, match="path"):
        read_choices(3)
