"""Equal logits get equal scores wherever they stand, and a larger logit never a smaller score.

Vector instructions take some entries at a time, and what is left over is computed one by one, by
other code: a score must not depend on which of the two an entry meets.
"""

import pytest
import torch

from lp_routing import scores
from lp_routing.routers import LossFree, TopK, Unified

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INF = float("inf")


def by_torch(logits, mask=None):
    return torch.sigmoid(logits if logits.dtype == torch.float64 else logits.float())


def gate(logits, mask=None):
    return scores.unified(logits, mask, rate=1.0)


ENTRYWISE = {
    "sigmoid": scores.sigmoid,
    "sqrt_softplus": scores.sqrt_softplus,
    "softplus": lambda logits, _: scores.softplus(logits),
    "gate of unified": gate,
}
entrywise = pytest.mark.parametrize("score", ENTRYWISE.values(), ids=ENTRYWISE)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def spread(count, dtype, seed=0):
    """Logits of every size that matters, many near 0 and some out where scores saturate."""
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([0.01, 1.0, 5.0, 30.0, 200.0], dtype=torch.float64)
    size = sizes[torch.randint(0, len(sizes), (count,), generator=draw)]
    return (torch.randn(count, dtype=torch.float64, generator=draw) * size).to(dtype)


def differing(score, dtype):
    """How many of some 15,000 entries change with the length, place or layout of their vector.

    The gate of `unified` is divided by E, a power of two times the sigmoid only where E is one:
    so vectors are tokens of one expert, and matrices have 16 experts.
    """
    values = spread(4000, dtype)
    reference = score(values[:, None], None)[:, 0]
    wrong = 0
    for length in range(1, 41):  # of every length one place after another, and copies of one entry
        for start in range(97 * length % 400, 3900, 800):
            part = values[start : start + length].clone()
            wrong += int(
                (score(part[:, None], None)[:, 0] != reference[start : start + length]).sum()
            )
        alike = score(values[start].repeat(length)[:, None], None)
        wrong += int((alike != reference[start]).sum())
    matrix = values.view(-1, 16)
    plain = score(matrix, None)
    for layout in (
        matrix.mT.contiguous().mT,
        matrix.repeat(1, 2)[:, 16:],
        matrix[:, :, None].mT[:, 0],
    ):
        wrong += int((score(layout, None) != plain).sum())
    return wrong


@entrywise
@every_dtype
def test_a_score_depends_on_its_logit_alone(score, dtype):
    assert differing(score, dtype) == 0


@pytest.mark.skipif("AVX" not in torch.backends.cpu.get_cpu_capability(), reason="its kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_search_finds_a_sigmoid_that_depends_on_more(dtype):
    assert differing(by_torch, dtype) > 10


def falls(score, values):
    """How often a score falls between neighbouring logits, eight steps on from each value."""
    count, low = 0, score(values, None)
    for _ in range(8):
        values = torch.nextafter(values, torch.full_like(values, INF))
        high = score(values, None)
        count, low = count + int((high < low).sum()), high
    return count


@entrywise
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_larger_logit_never_scores_less(score, dtype):
    seams = torch.tensor([-745.0, -700.0, -104.0, -88.0, -40.0, 0.0, 17.0, 37.0, 40.0], dtype=dtype)
    near = seams.repeat(500) * (1 + torch.arange(-250, 250).repeat_interleave(9) * 2.0**-50)
    values = torch.cat([spread(40_000, dtype), near.to(dtype)])[:, None]
    assert falls(score, values) == 0
    assert falls(lambda logits, mask: score(-logits, mask), values) > 0
    steps = values.sort(0).values.diff(dim=0)
    assert (score(values.sort(0).values, None).diff(dim=0)[steps > 0] >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("score", [scores.softmax, scores.unified, scores.unified_v1])
def test_rows_and_pairs_that_are_alike_score_alike(score, dtype):
    draw = torch.Generator().manual_seed(1)
    for E in range(1, 41):
        for T in (1, 3 + E % 6, 33):
            logits = torch.randn(T, E, dtype=dtype, generator=draw) * 4
            columns = torch.randint(0, E, (E,), generator=draw)
            rows = torch.randint(0, T, (T,), generator=draw)
            expected = logits[rows][:, columns]
            for given in (expected, expected.mT.contiguous().mT):
                received = score(given, None)
                first_row = (rows[:, None] == rows).long().argmax(1)
                first_column = (columns[:, None] == columns).long().argmax(1)
                assert torch.equal(received, received[first_row][:, first_column])


@pytest.mark.parametrize(
    ("logit", "T", "E"), [(-2.9277071952819824, 1, 17), (-1.3565564155578613, 7, 13)]
)
@pytest.mark.parametrize("score", ["sigmoid", "sqrt_softplus", "unified", "softmax", gate])
def test_experts_with_equal_logits_are_taken_from_the_lowest_on(logit, T, E, score):
    logits = torch.full((T, E), logit)
    expected = torch.arange(E).expand(T, E) < 2
    assert torch.equal(TopK(2, score=score)(logits).x, expected)
    assert torch.equal(LossFree(2, score=score)(logits)[0].x, expected)
    pooled = torch.arange(T * E).view(T, E) < 2 * T
    assert torch.equal(Unified(2, rate=1.0)(logits).x, pooled)
