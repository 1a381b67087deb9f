"""Each sentence that refuses bad input says what was received; nothing in a file is executed."""

import io
import os
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

import lp_routing as lpr
from lp_routing.problem.problem import LARGEST_SUM

NAN, INF = float("nan"), float("inf")
SCORES = torch.arange(15.0).reshape(5, 3)
ONE_EACH = lpr.exactly(1)

NAMED = {
    "token_choice": lambda scores: lpr.problems.token_choice(scores, 1),
    "expert_choice": lambda scores: lpr.problems.expert_choice(scores, 1),
    "unified": lambda scores: lpr.problems.unified(scores, 1),
    "capacity": lambda scores: lpr.problems.capacity(scores, 1, 1),
    "balanced": lambda scores: lpr.problems.balanced(scores, 1),
    "capped_expert_choice": lambda scores: lpr.problems.capped_expert_choice(scores, 1, 1),
    "served_unified": lambda scores: lpr.problems.served_unified(scores, 1),
    "RoutingProblem": lpr.RoutingProblem,
    "with_scores": lambda scores: lpr.problems.token_choice(SCORES, 1).with_scores(scores),
}


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ([[0.0, NAN]], r"\[0, 1\] is nan \(1 such entries\): it must be finite, or -inf"),
        ([[0.0], [INF]], r"\[1, 0\] is inf \(1 such"),
        (torch.tensor([[0, NAN], [INF, NAN]]).half(), r"\[0, 1\] is nan \(3 such"),
        (np.zeros(3), r"expected a matrix \(tokens x experts\), got shape \(3,\); take one layer"),
        (torch.zeros(2, 3, 4), r"expected a matrix .* got shape \(2, 3, 4\); .* reshape"),
        (np.array(1.0), r"expected a matrix .* got shape \(\)"),
        (np.zeros((0, 3)), r"got shape \(0, 3\); give at least one token and one expert"),
        (torch.zeros(3, 0), r"got shape \(3, 0\); give at least one token and one expert"),
        ([[]], r"got shape \(1, 0\); give at least one token"),
        (SCORES > 3, r"expected real numbers, got torch.bool"),
        (SCORES.numpy() + 1j, r"expected real numbers, got torch.complex"),
        ([[1, 2], [3]], r"expected a matrix of numbers .* got list that torch cannot read"),
        ([["a"]], r"expected a matrix of numbers .* got list that torch cannot read"),
        (None, r"expected a matrix of numbers .* got NoneType"),
        (np.array([[{}]], dtype=object), r"expected a matrix of numbers .* got ndarray"),
        ([[2**53 + 1]], r"integers beyond 2\*\*53 do not fit float64; rescale"),
        (np.array([[-(2**63), 0]]), r"integers beyond 2\*\*53 do not fit float64"),
        (np.array([[2**64 - 1]], dtype=np.uint64), r"integers beyond 2\*\*53 do not fit"),
        (torch.eye(3).to_sparse(), r"expected"),
        (torch.zeros(2, 3, device="meta"), r"expected"),
    ],
)
@pytest.mark.parametrize("state", NAMED)
def test_scores_that_are_no_matrix_of_numbers_are_refused(state, scores, says):
    with pytest.raises(lpr.InputError, match=f"^scores.*{says}"):
        NAMED[state](scores)


@pytest.mark.parametrize(
    "dtype", ["u1", "u2", "u4", "u8", "i1", "i4", "i8", "f2", "f4", "f8", ">f8"]
)
def test_scores_of_every_real_type_are_the_same_problem(dtype):
    problem = lpr.problems.token_choice(SCORES.numpy().astype(dtype), 1)
    assert problem.scores.double().tolist() == SCORES.tolist()
    assert lpr.solve(problem).value == SCORES[:, 2].sum()


@pytest.mark.parametrize("kind", ["list", "bfloat16", "grad", "read-only", "reversed", "strided"])
def test_scores_in_every_container_are_the_same_problem(kind):
    frozen = SCORES.numpy().copy()
    frozen.flags.writeable = False
    scores = {
        "list": SCORES.tolist(),
        "bfloat16": SCORES.bfloat16(),
        "grad": SCORES.clone().requires_grad_(),
        "read-only": frozen,
        "reversed": np.ascontiguousarray(SCORES.numpy()[::-1])[::-1],
        "strided": SCORES.repeat_interleave(2, 1)[:, ::2],
    }[kind]
    problem = lpr.problems.token_choice(scores, 1)
    assert problem.scores.double().tolist() == SCORES.tolist()
    assert not problem.scores.requires_grad


def test_float8_scores_are_solved_or_refused_in_words():
    scores = SCORES.to(torch.float8_e4m3fn)
    try:
        problem = lpr.problems.token_choice(scores, 1)
    except lpr.InputError as refusal:
        assert "float8" in str(refusal)  # noqa: PT017
    else:
        assert lpr.solve(problem).value == SCORES[:, 2].sum()


@pytest.mark.parametrize(
    ("multiplicity", "says"),
    [
        ([1, 2], r"expected 5 whole numbers, one a row, got shape \(2,\)"),
        (2, r"expected 5 whole numbers, one a row, got shape \(\)"),
        ([[1] * 5], r"expected 5 .* got shape \(1, 5\)"),
        ([1, 2, 0, 3, 1], r"whole number >= 1; got values from 0 to 3"),
        ([1, 2, -4, 3, 1], r"whole number >= 1; got values from -4 to 3"),
        ([1, 1.5, 1, 1, 1], r"whole number >= 1; got .*1\.5"),
        ([1, INF, 1, 1, 1], r"whole number >= 1; got values from 1 to inf"),
        ([NAN] * 5, r"whole number >= 1; got values from nan"),
        (["a"] * 5, r"whole numbers"),
        ("many", r"whole numbers"),
        ({1: 2}, r"whole numbers"),
        ([1j] * 5, r"whole numbers"),
    ],
)
def test_a_multiplicity_that_counts_no_tokens_is_refused(multiplicity, says):
    with pytest.raises(lpr.InputError, match=f"^multiplicity: .*{says}"):
        lpr.RoutingProblem(SCORES, multiplicity=multiplicity)


def test_a_multiplicity_of_any_whole_type_is_taken():
    for dtype in ("u1", "u4", "i8", "f4", ">i4"):
        problem = lpr.RoutingProblem(SCORES, multiplicity=np.array([1, 2, 3, 4, 5], dtype=dtype))
        assert problem.copies().tolist() == [1, 2, 3, 4, 5]


def test_scores_are_refused_where_the_sum_of_all_pairs_could_leave_float64():
    # Somewhat less than a tenth of the most: ten pairs fit, eleven do not, nor eleven copies.
    tenth = 0.099 * LARGEST_SUM
    assert lpr.RoutingProblem(np.full((5, 2), tenth)).score_scale == tenth
    with pytest.raises(lpr.InputError, match="so that sums could leave the range of float64"):
        lpr.RoutingProblem(np.full((11, 1), tenth))
    one = np.full((1, 1), tenth)
    assert lpr.RoutingProblem(one, multiplicity=[10]).T == 1
    with pytest.raises(lpr.InputError, match="could leave the range"):
        lpr.RoutingProblem(one, multiplicity=[11])
    with pytest.raises(lpr.InputError, match="could leave the range"):
        lpr.RoutingProblem([[1.0]], multiplicity=[11]).with_scores(one)


def test_a_token_that_must_take_more_experts_than_there_are_is_refused():
    says = r"token_3 must take 4 experts, .* only E=3 .* taken 1 time\(s\): at most 3 fit"
    with pytest.raises(lpr.InputError, match=says):
        lpr.RoutingProblem(SCORES, tokens=lpr.exactly([1, 1, 1, 4, 5]))
    with pytest.raises(
        lpr.InputError, match=r"token_0 must take 7 .* taken 2 time\(s\): at most 6"
    ):
        lpr.RoutingProblem(SCORES, tokens=lpr.at_least(7), multiplicity=[2] * 5)


def test_a_token_that_needs_an_expert_and_may_go_to_none_is_refused():
    scores = SCORES.clone()
    scores[[1, 4]] = -INF
    says = r"token_1 must take at least 1 expert\(s\), .* forbids every pair \(2 such token\(s\)\)"
    with pytest.raises(lpr.InputError, match=f"{says}.* at_most"):
        lpr.RoutingProblem(scores, tokens=ONE_EACH)
    with pytest.raises(lpr.InputError, match=says):
        lpr.RoutingProblem(SCORES, tokens=ONE_EACH).with_scores(scores)
    assert lpr.RoutingProblem(scores, tokens=lpr.at_most(1)).T == 5


def test_scores_of_another_shape_are_refused():
    with pytest.raises(lpr.InputError, match=r"with_scores: expected .* \(5, 3\), got \(3, 5\)"):
        lpr.problems.token_choice(SCORES, 1).with_scores(SCORES.T)


def test_bounds_that_no_whole_number_satisfies_are_refused():
    problem = lpr.RoutingProblem(SCORES, experts=lpr.between([0, 2.2, 0], [9, 2.8, 9]))
    with pytest.raises(lpr.InputError, match=r"expert_1: no whole number lies between 2.2 and 2.8"):
        problem.with_whole_bounds()


class Payload:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _carriers(payload: Payload) -> dict[str, bytes]:
    """File names and contents that carry the payload in every way a pickle can enter."""
    objects = np.array([payload], dtype=object)
    found = {
        f"raw{suffix}": pickle.dumps(payload) for suffix in (".npz", ".npy", ".safetensors", ".pt")
    }
    for name, save in {
        "array.npy": lambda file: np.save(file, objects, allow_pickle=True),
        "key.npz": lambda file: np.savez(file, router_logits=objects),
        "extra.npz": lambda file: np.savez(file, router_logits=SCORES.numpy(), note=objects),
        "mask.npz": lambda file: np.savez(file, router_logits=SCORES.numpy(), mask=objects),
        "bare.pt": lambda file: torch.save(payload, file),
        "beside.pt": lambda file: torch.save({"router_logits": SCORES, "note": payload}, file),
        "old.pt": lambda file: torch.save(payload, file, _use_new_zipfile_serialization=False),
    }.items():
        buffer = io.BytesIO()
        save(buffer)
        found[name] = buffer.getvalue()
    return found


@pytest.mark.parametrize("name", sorted(_carriers(Payload(Path("never")))))
def test_a_pickle_in_a_file_is_never_executed(tmp_path, name):
    trap = tmp_path / "executed"
    (tmp_path / name).write_bytes(_carriers(Payload(trap))[name])
    with suppress(lpr.InputError, UserWarning):
        lpr.traces.read(tmp_path / name)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["array.npy", "key.npz", "bare.pt", "beside.pt", "raw.pt"])
def test_a_file_of_objects_is_refused_in_words(tmp_path, name):
    (tmp_path / name).write_bytes(_carriers(Payload(tmp_path / "executed"))[name])
    with pytest.raises(lpr.InputError, match=r"hold objects, which are never loaded") as refusal:
        lpr.traces.read(tmp_path / name)
    assert "weights_only" not in str(refusal.value)  # nothing that tempts to execute it


def test_the_payload_of_these_tests_would_go_off(tmp_path):
    contents = _carriers(Payload(tmp_path / "executed"))
    for load in (
        lambda: pickle.loads(contents["raw.pt"]),
        lambda: np.load(io.BytesIO(contents["array.npy"]), allow_pickle=True),
        lambda: np.load(io.BytesIO(contents["key.npz"]), allow_pickle=True)["router_logits"],
        lambda: torch.load(io.BytesIO(contents["bare.pt"]), weights_only=False),
        lambda: torch.load(io.BytesIO(contents["old.pt"]), weights_only=False),
    ):
        load()
        (tmp_path / "executed").rmdir()
    with zipfile.ZipFile(io.BytesIO(contents["extra.npz"])) as archive:
        assert b"mkdir" in archive.read("note.npy")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.npz", "no such file"),
        ("folder.npz", "is a folder; give one file"),
        ("logits.csv", r"expected a file ending in \.npz, \.npy, \.safetensors, \.pt, got '\.csv'"),
        ("logits", r"expected a file ending in .*, got ''"),
        ("n" * 300 + ".npz", "too long|no such file|cannot"),
    ],
)
def test_what_is_no_file_of_a_known_format_is_refused(tmp_path, name, says):
    (tmp_path / "folder.npz").mkdir()
    for present in ("logits.csv", "logits"):
        (tmp_path / present).write_text("0.5")
    with pytest.raises(lpr.InputError, match=f"{name}.*({says})"):
        lpr.traces.read(tmp_path / name)
