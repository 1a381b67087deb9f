"""One pass in chunks gives what direct sums give, in little memory; sums of shards add up."""

import subprocess
import sys
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
import lp_routing.problem.problem as chunks
from lp_routing.certificate.certificate import certificate_of, token_sums
from lp_routing.certificate.prices import clipped, pair_prices
from tests.strategies import prices_for, problems

INF = float("inf")


@st.composite
def amounts_for(draw, problem):
    """Amounts of any type, multiples of 1/4 so that sums of them are exact; many break bounds."""
    x = [0.0, 0.0, 0.0, 1.0, 2.0, -1.0, 0.25]
    x = x[: draw(st.sampled_from([4, 6, 7]))]
    rows = st.lists(st.sampled_from(x), min_size=problem.E, max_size=problem.E)
    matrix = torch.tensor(draw(st.lists(rows, min_size=problem.T, max_size=problem.T)))
    dtypes = [torch.float32, torch.float64]
    if len(x) < 7:
        dtypes += [torch.int8, torch.int64]
    if len(x) == 4:
        dtypes += [torch.bool, torch.uint8]
    return matrix.to(draw(st.sampled_from(dtypes)))


def bound_by_definition(problem, prices):
    """Each row's best units one by one, then the price of every limit."""
    table = clipped(problem, prices)
    paid = pair_prices(problem, table).of(slice(0, problem.T))
    lower, upper = problem.token_bounds()
    bound = 0.0
    for i in range(problem.T):
        units = []
        for j in range(problem.E):
            if problem.scores[i, j] > -INF:
                earned = float(problem.scores[i, j] - paid[i, j])
                units += [earned] * int(problem.copies()[i])
        units.sort(reverse=True)
        if len(units) < lower[i]:
            return -INF
        for rank, earned in enumerate(units):
            if rank < lower[i] or (rank < upper[i] and earned > 0):
                bound += earned
    for family in problem.families:
        if family.kind != "token":
            prices_and_limits = zip(table[family.kind], family.lower, family.upper, strict=True)
            bound += sum(float(p * (high if p > 0 else low)) for p, low, high in prices_and_limits)
    return bound


def broken_by_definition(problem, x):
    """Name and amount of every broken constraint."""
    found = {}
    for i in range(problem.T):
        for j in range(problem.E):
            most = float(problem.copies()[i]) if problem.scores[i, j] > -INF else 0.0
            found[f"x_{i}_{j}"] = max(float(x[i, j]) - most, -float(x[i, j]))
    for family in problem.families:
        counted = family.activity(x.double().sum(1), x.double().sum(0))
        for row in range(len(family)):
            over, under = counted[row] - family.upper[row], family.lower[row] - counted[row]
            found[family.name(row)] = float(max(over, under))
    return {name: amount for name, amount in found.items() if amount > 0}


@given(st.data(), st.sampled_from([1, 5, 8, 1000]))
def test_a_certificate_in_chunks_is_what_direct_sums_say(data, entries):
    problem = data.draw(problems())
    prices, x = data.draw(prices_for(problem)), data.draw(amounts_for(problem))
    scores = problem.scores.masked_fill(problem.scores == -INF, 0)
    with patch.object(chunks, "CHUNK_ENTRIES", entries):
        certificate = lpr.certify(problem, lpr.Assignment(x), prices)
        exact = lpr.certify(problem, lpr.Assignment(x), prices, exact=True)
    assert certificate.value == exact.value == float((x.double() * scores).sum())
    size = abs(float((x.double() * scores.abs()).sum()))
    assert certificate.scale == exact.scale == max(size, problem.smallest_score)
    bound = bound_by_definition(problem, prices)
    assert certificate.bound == pytest.approx(bound, abs=1e-9)
    assert float(exact.bound) <= certificate.bound + 1e-9
    broken = broken_by_definition(problem, x)
    assert {v.name: v.amount for v in certificate.violations} == broken
    assert certificate.violation_count == len(broken)
    assert exact.violations == certificate.violations


def test_each_chunk_has_the_multiplicity_of_its_own_rows(monkeypatch):
    # Two of the first token, one of the second, a row a chunk. Both rows take expert 0 twice: the
    # first may, the second has one copy only.
    problem = lpr.RoutingProblem([[3.0, 0.0], [2.0, 0.0]], multiplicity=[2, 1])
    monkeypatch.setattr(chunks, "CHUNK_ENTRIES", 1)
    certificate = lpr.certify(problem, [[2, 0], [2, 0]], lpr.Prices())
    assert [(v.name, v.amount, v.limit) for v in certificate.violations] == [("x_1_0", 1, 1)]
    # The other way round it is the first row that takes too much.
    problem = lpr.RoutingProblem([[3.0, 0.0], [2.0, 0.0]], multiplicity=[1, 2])
    certificate = lpr.certify(problem, [[2, 0], [2, 0]], lpr.Prices())
    assert [(v.name, v.amount, v.limit) for v in certificate.violations] == [("x_0_0", 1, 1)]


@given(st.data(), st.sampled_from([1, 5, 1000]))
def test_facts_of_scores_in_chunks_are_what_the_whole_matrix_says(data, entries):
    scores = data.draw(problems()).scores
    with patch.object(chunks, "CHUNK_ENTRIES", entries):
        problem = lpr.RoutingProblem(scores)
    sizes = scores[scores > -INF].abs()
    assert problem.score_scale == float(sizes.max() if len(sizes) else 0)
    assert problem.smallest_score == float(sizes[sizes > 0].min() if bool(sizes.any()) else 0)
    assert problem.allowed_per_token.tolist() == problem.allowed.sum(1).tolist()
    best = scores.max(1).values
    served = best[best > 0] if bool((best > 0).any()) else best[best > -INF].abs()
    assert problem.typical_score == float(served.median() if len(served) else 0)


@pytest.mark.parametrize("bad", [float("nan"), INF])
def test_the_first_bad_score_is_named_whichever_chunk_it_is_in(monkeypatch, bad):
    monkeypatch.setattr(chunks, "CHUNK_ENTRIES", 4)
    scores = torch.zeros(9, 2)
    scores[5, 1] = scores[7, 0] = bad
    with pytest.raises(lpr.InputError, match=rf"^scores\[5, 1\] is {bad} \(2 such entries\)"):
        lpr.RoutingProblem(scores)
    with pytest.raises(lpr.InputError, match=rf"^assignment\[5, 1\] is {bad}: amounts must be"):
        lpr.certify(lpr.RoutingProblem(torch.zeros(9, 2)), scores, lpr.Prices())


def test_a_forbidden_pair_beside_large_scores_is_no_mask():
    problem = lpr.RoutingProblem(torch.tensor([[1e5, -INF]]))
    assert (problem.score_scale, problem.smallest_score) == (1e5, 1e5)


def test_scores_are_read_once_by_whatever_needs_them(monkeypatch):
    passes = []
    row_chunks = lpr.RoutingProblem.row_chunks
    monkeypatch.setattr(
        lpr.RoutingProblem, "row_chunks", lambda self: passes.append(self) or row_chunks(self)
    )

    def count(work):
        passes.clear()
        result = work()
        return len(passes), result

    scores = torch.rand(50, 4).half()  # float32 and float64 are read by compiled code
    read, problem = count(lambda: lpr.problems.capacity(scores, 2, 30))
    assert read == 1
    chosen = lpr.routers.TopK(2).select(scores.float())
    assert count(lambda: lpr.certify(problem, chosen, lpr.Prices()))[0] == 1
    assert count(lambda: lpr.dual_bound(problem, lpr.Prices()))[0] == 1
    assert count(lambda: problem.with_whole_bounds())[0] == 0
    assert count(lambda: (problem.typical_score, problem.score_scale))[0] == 0


def test_other_constraints_on_the_same_scores_have_their_own_integrality():
    half = lpr.RoutingProblem(torch.ones(2, 2), experts=lpr.at_most(1.5))
    assert not half.is_integral
    assert half.with_whole_bounds().is_integral
    assert not half.is_integral


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_memory_mapped_scores_are_the_same_problem_in_place(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(chunks, "CHUNK_ENTRIES", 100)
    scores = np.random.default_rng(0).normal(size=(200, 8)).astype(dtype)
    scores[3, 4] = -INF
    np.save(tmp_path / "scores.npy", scores)
    mapped = np.load(tmp_path / "scores.npy", mmap_mode="r")
    ours, theirs = lpr.problems.capacity(mapped, 2, 60), lpr.problems.capacity(scores, 2, 60)
    assert ours.scores.data_ptr() == mapped.ctypes.data
    prices = lpr.Prices(experts=torch.full((8,), 0.25))
    chosen = np.argsort(np.argsort(-scores, 1), 1) < 2
    for exact in (False, True):
        expected = lpr.certify(theirs, chosen, prices, exact=exact)
        assert lpr.certify(ours, chosen, prices, exact=exact) == expected


@pytest.mark.parametrize("dtype", ["?", "u1", "u2", "u4", "u8", "i1", "i8", "f2", "f4", "f8"])
def test_amounts_of_every_real_type_are_the_same_assignment(dtype):
    problem = lpr.RoutingProblem([[1.0, 2.0], [4.0, 8.0]], experts=lpr.at_most(1))
    certificate = lpr.certify(problem, np.array([[1, 1], [0, 1]]).astype(dtype), lpr.Prices())
    assert (certificate.value, certificate.bound, certificate.violation_count) == (11, 15, 1)


IN_LITTLE_MEMORY = """
import resource, sys, numpy as np, torch, lp_routing as lpr

def certified(scores):
    problem = lpr.RoutingProblem(scores, tokens=lpr.at_most(2), experts=lpr.at_most(9))
    nothing = torch.zeros(1, problem.E, dtype=torch.bool).expand(problem.T, problem.E)
    return problem, lpr.certify(problem, nothing, lpr.Prices(experts=np.full(problem.E, 0.5)))

certified(torch.rand(1 << 14, 128))  # threads and libraries take their memory before the limit
held = next(line for line in open("/proc/self/status") if line.startswith("VmData"))
limit = int(held.split()[1]) * 1024 + (128 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
problem, certificate = certified(np.memmap(sys.argv[1], "f4", mode="r", shape=(1 << 20, 128)))
print(certificate.value, certificate.bound, certificate.violation_count)
try:
    problem.scores.clone()
except RuntimeError:
    print("a copy does not fit")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of data alone")
def test_mapped_scores_of_half_a_gigabyte_need_a_quarter_of_that_at_most(tmp_path):
    scores = np.memmap(tmp_path / "scores", "f4", mode="w+", shape=(1 << 20, 128))  # sparse
    scores[5, 3] = scores[-1, 0] = 2
    scores.flush()
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, str(tmp_path / "scores")],
        capture_output=True,
        text=True,
        check=False,
    )
    # two tokens earn 2 - 0.5 each; 128 experts of 9 slots at 0.5
    assert done.stdout.split("\n")[0] == f"0.0 {3 + 128 * 9 * 0.5} 0", done.stderr
    assert "a copy does not fit" in done.stdout


@pytest.fixture
def _process_group(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)


@pytest.mark.usefixtures("_process_group")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_a_shard_without_tokens_is_a_problem(dtype):
    problem = lpr.RoutingProblem(
        torch.zeros(0, 3, dtype=dtype),
        tokens=lpr.exactly(2),
        experts=lpr.at_most(1),
        multiplicity=[],
    )
    assert (problem.T, problem.E, list(problem.row_chunks())) == (0, 3, [])
    assert (problem.score_scale, problem.smallest_score, problem.typical_score) == (0, 0, 0)
    assert problem.allowed.shape == (0, 3)
    vectors = (*problem.token_bounds(), problem.copies(), problem.allowed_per_token)
    assert [len(vector) for vector in vectors] == [0, 0, 0, 0]
    assert problem.with_whole_bounds().is_integral
    prices = lpr.Prices(experts=[1.0, 2.0, 0.0])
    for exact in (False, True):
        certificate = lpr.certify(problem, torch.zeros(0, 3), prices, exact=exact)
        assert (certificate.value, certificate.bound, certificate.violation_count) == (0, 3, 0)
    assert lpr.dual_bound(problem, prices) == 3
    assert len(lpr.token_prices(problem, prices)) == len(lpr.ties(problem, prices)) == 0


@pytest.mark.usefixtures("_process_group")
def test_without_experts_there_is_no_problem_in_a_process_group_either():
    with pytest.raises(lpr.InputError, match=r"got shape \(3, 0\); give at least one token"):
        lpr.RoutingProblem(torch.zeros(3, 0))


def test_elsewhere_a_problem_without_tokens_is_refused_and_told_why():
    with pytest.raises(lpr.InputError, match=r"only a shard of a process group may be without"):
        lpr.RoutingProblem(torch.zeros(0, 3))


@pytest.mark.usefixtures("_process_group")
@pytest.mark.parametrize("exact", [False, True])
def test_the_sums_of_shards_make_the_certificate_of_all_tokens(exact):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(-4, 9, (20, 4), generator=generator) / 4
    x = torch.randint(0, 3, (20, 4), generator=generator)
    bounds = {"experts": lpr.at_most(10), "total": lpr.exactly(20)}
    tables = [{"expert": torch.ones(4).double(), "total": torch.tensor([0.5]).double()}]

    def sums(rows):
        shard = lpr.RoutingProblem(scores[rows], tokens=lpr.at_most(2), **bounds)
        return token_sums(shard, x[rows], tables, exact=exact)

    whole = lpr.RoutingProblem(scores, tokens=lpr.at_most(2), **bounds)
    shards = [sums(slice(0, 7)), sums(slice(7, 7)), sums(slice(7, 20))]
    added = certificate_of(whole, shards[0] + shards[1] + shards[2], tables, exact)
    direct = certificate_of(whole, token_sums(whole, x, tables, exact=exact), tables, exact)
    assert (added.value, added.bound, added.scale) == (direct.value, direct.bound, direct.scale)
    assert added.violation_count == direct.violation_count > 0
