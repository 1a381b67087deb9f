"""`largest` and `ranks`, against sorting in plain Python; ties go to the lowest index."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lp_routing.routers import largest
from lp_routing.routers.selection import ranks

NEVER = float("-inf")
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
lines = st.lists(st.sampled_from([NEVER, 0, 1, 2, 3]), min_size=1, max_size=8)


def marked(line: list[float], count: int) -> list[bool]:
    """The definition: sort by falling value, then rising index; mark the first `count` allowed."""
    order = sorted(range(len(line)), key=lambda i: (-line[i], i))
    best = [i for i in order if line[i] > NEVER][:count]
    return [i in best for i in range(len(line))]


def tied_lines(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Integers 0..3, so that nearly every line has ties; one entry in eight is -inf."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 4, shape, generator=draw).to(dtype)
    return values.masked_fill(torch.rand(shape, generator=draw) < 1 / 8, NEVER)


@pytest.mark.parametrize(
    ("line", "count", "expected"),
    [
        # The two largest, wherever they stand.
        ([5, 1, 7, 2], 2, [1, 0, 1, 0]),
        # Three entries share the threshold and two places are open: the two earlier ones.
        ([4, 9, 4, 4], 3, [1, 1, 1, 0]),
        # All equal.
        ([2, 2, 2, 2], 2, [1, 1, 0, 0]),
        # Forbidden entries stay out even where places are open.
        ([NEVER, 3, NEVER, 1], 3, [0, 1, 0, 1]),
        ([NEVER, NEVER], 1, [0, 0]),
        # More asked for than there are, and nothing asked for.
        ([1, 2], 5, [1, 1]),
        ([1, 2], 0, [0, 0]),
        # -0.0 equals 0.0: the lower index.
        ([-0.0, 0.0], 1, [1, 0]),
        ([0.0, -0.0], 1, [1, 0]),
        # Negative values are as good as any.
        ([-3, -1, -2], 2, [0, 1, 1]),
    ],
)
def test_largest_marks_the_expected_entries(line, count, expected):
    line, expected = [float(value) for value in line], [bool(mark) for mark in expected]
    values = torch.tensor(line)
    assert largest(values, count).tolist() == expected
    assert largest(values, torch.tensor(count)).tolist() == expected
    assert marked(line, count) == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", range(10))
def test_largest_equals_sorting_every_line(dtype, count):
    values = tied_lines(40, 9, dtype=dtype)
    expected = [marked(line, count) for line in values.tolist()]
    assert largest(values, count).tolist() == expected
    assert largest(values, torch.full((40,), count)).tolist() == expected


def test_the_random_lines_tell_the_two_tie_rules_apart():
    values = tied_lines(40, 9)
    backwards = largest(values.flip(-1), 4).flip(-1)
    assert (backwards != largest(values, 4)).any(-1).sum() > 20
    assert backwards.tolist() != [marked(line, 4) for line in values.tolist()]


def test_each_line_may_ask_for_its_own_count():
    values, counts = tied_lines(3, 10, 9), torch.arange(30).reshape(3, 10) % 11
    expected = [
        [marked(line, int(count)) for line, count in zip(*block, strict=True)]
        for block in zip(values.tolist(), counts, strict=True)
    ]
    assert largest(values, counts).tolist() == expected


@given(line=lines, count=st.integers(0, 9))
def test_largest_marks_as_many_as_it_can(line, count):
    chosen = largest(torch.tensor(line), count)
    allowed = sum(value > NEVER for value in line)
    assert int(chosen.sum()) == min(count, allowed)


@given(line=lines, count=st.integers(0, 7))
def test_asking_for_one_more_adds_one_entry_and_drops_none(line, count):
    fewer, more = (largest(torch.tensor(line), n) for n in (count, count + 1))
    assert bool((more | ~fewer).all())


@given(st.permutations(range(7)), st.integers(0, 7))
def test_permuting_a_line_without_ties_permutes_the_marks(order, count):
    values = torch.tensor([3.0, -1.0, 7.0, 0.5, 2.0, NEVER, 4.0])
    assert torch.equal(largest(values[order], count), largest(values, count)[order])


@pytest.mark.parametrize("count", [3, torch.tensor([[3, 3, 3, 3, 3], [3, 3, 3, 3, 3]])])
def test_largest_reads_tensors_that_are_not_contiguous(count):
    values = tied_lines(2, 7, 5).mT
    assert not values.is_contiguous()
    assert torch.equal(largest(values, count), largest(values.contiguous(), count))


def test_largest_leaves_its_input_alone_and_needs_no_gradient():
    values = tied_lines(4, 6).requires_grad_()
    before = values.detach().clone()
    chosen = largest(values, 2)
    assert chosen.dtype == torch.bool
    assert not chosen.requires_grad
    assert torch.equal(values.detach(), before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ranks_count_from_the_largest_with_ties_to_the_lowest_index(dtype):
    assert ranks(torch.tensor([2, 5, 2, 9], dtype=dtype)).tolist() == [2, 1, 3, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_lines_full_of_ties_still_prefer_the_lowest_index(dtype):
    values = tied_lines(2, 1000, dtype=dtype)
    for count in (1, 100, 500, 999):
        expected = [marked(line, count) for line in values.tolist()]
        assert largest(values, count).tolist() == expected
        assert largest(values, torch.tensor([count, count])).tolist() == expected
        assert ((ranks(values) < count) & (values > NEVER)).tolist() == expected


@settings(max_examples=50)
@given(line=lines)
def test_the_first_ranks_are_the_largest_entries(line):
    values = torch.tensor(line)
    places = ranks(values)
    assert sorted(places.tolist()) == list(range(len(line)))
    for count in range(len(line) + 1):
        assert torch.equal((places < count) & (values > NEVER), largest(values, count))
