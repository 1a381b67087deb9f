"""What a search knows of a batch of tokens, on one process or many."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.pricing.clearing import Array
from lp_routing.pricing.priced import Priced, priced_constraints
from lp_routing.pricing.rows import Contest, Rows, joined, rows_of
from lp_routing.pricing.screen import screen
from lp_routing.problem.problem import RoutingProblem
from lp_routing.process_group import ProcessGroup

GROWTH = 4
"""Each sample is so many times as large as the one before."""
TAKERS = 16
"""In the first sample each expert has about so many takers."""
FEWEST = 256
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Batch:
    """All tokens, of which `rows` are held here.

    Attributes:
        priced: the constraints that carry prices, the same on every rank.
        rows: the rows of this process, numbered over all ranks.
        first: number of the first of them.
        sample: some rows of all ranks, in random order.
        sizes: how many of them the samples use, one after the other.
        units: tokens in all.
        pairs: allowed pairs in all.
        typical: what a token usually has to win, in units of score.
        short: whether a token must take more than it may, or all tokens more than all constraints
            allow, or all may take less than these ask for.
    """

    priced: Priced
    rows: Rows
    first: int
    sample: Rows
    sizes: tuple[int, ...]
    units: float
    pairs: int
    typical: float
    short: bool


def batch_of(problem: RoutingProblem, shards: ProcessGroup, seed: int) -> Batch:
    """Number the rows of all ranks, and draw a sample from each in proportion to its tokens.

    Raises:
        InputError: ranks that disagree about the constraints, or groups of tokens over ranks.
    """
    if not shards.alone and problem.family("token_group") is not None:
        raise InputError(
            "Pricing(group=...): token groups may reach over several ranks, which is not "
            "supported; leave token_groups out, or solve on one process."
        )
    typical = max(shards.gathered(problem.typical_score)) or 1.0
    largest = max(shards.gathered(problem.score_scale))
    priced, place = priced_constraints(problem, typical, largest)
    rows = rows_of(problem, place)
    taken = float(rows.may.sum()), float(rows.units.sum()), float(rows.must.sum())
    stuck = bool((rows.must > rows.units * problem.allowed_per_token).any())
    allowed = int(problem.allowed_per_token.sum())
    facts = shards.gathered((len(rows), *taken, stuck, allowed))
    _check_the_same(shards, problem, priced)
    counts = [fact[0] for fact in facts]
    first, T = sum(counts[: shards.rank]), sum(counts)
    may, units, must = (sum(fact[column] for fact in facts) for column in (1, 2, 3))
    sizes = _sizes(T, min(may, priced.counts_at_most()) / max(units * problem.E, 1.0))
    share = -(-sizes[-1] * len(rows) // max(T, 1))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(rows), generator=generator)[:share].to(rows.index.device)
    rows = Rows(rows.scores, rows.must, rows.may, rows.units, rows.place, rows.index + first)
    parts = shards.gathered(rows.take(drawn) if shards.alone else rows.take(drawn).to(CPU))
    return Batch(
        priced=priced,
        rows=rows,
        first=first,
        sample=parts[0] if shards.alone else _mixed(parts, generator),
        sizes=sizes,
        units=units,
        pairs=sum(fact[5] for fact in facts),
        typical=typical,
        short=any(fact[4] for fact in facts)
        or must > priced.counts_at_most()
        or may < priced.counts_at_least(),
    )


def contested(
    batch: Batch,
    shards: ProcessGroup,
    low: Array,
    high: Array,
    x: Tensor | None = None,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float64,
) -> tuple[Contest, Tensor]:
    """One pass over all rows, each rank's own: what is contested in a box, and the load decided.

    Args:
        batch: the rows.
        shards: the ranks; all of them get the contested rows of all.
        low, high: the box (D,).
        x: amounts (T, E) of this rank's rows to write what is decided into, or None.
        device: where chunks of rows are worked on.
        dtype: in what precision.
    """
    own = screen(
        batch.rows, batch.priced, low, high, x, first=batch.first, device=device, dtype=dtype
    )
    parts = shards.gathered((own.contest, own.load))
    return joined([c for c, _ in parts]), torch.stack([load for _, load in parts]).sum(0)


def _sizes(T: int, per_expert: float) -> tuple[int, ...]:
    """Sizes of samples, from one that gives each expert some takers to a good part of T rows."""
    size = max(FEWEST, min(T, round(TAKERS / max(per_expert, 1e-9))))
    sizes = [min(size, T)]
    while 4 * GROWTH * sizes[-1] <= T:
        sizes.append(GROWTH * sizes[-1])
    return tuple(sizes)


def _mixed(parts: list[Rows], generator: torch.Generator) -> Rows:
    """The samples of all ranks in one random order, the same on every rank."""

    def column(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts if len(part)])

    generator.manual_seed(generator.initial_seed())
    rows = Rows(
        column("scores"), column("must"), column("may"), column("units"), None, column("index")
    )
    return rows.take(torch.randperm(len(rows), generator=generator))


def _check_the_same(shards: ProcessGroup, problem: RoutingProblem, priced: Priced) -> None:
    """Raise on every rank where ranks state different constraints."""
    multiple = problem.multiplicity is not None
    mine = (problem.E, priced.kinds, priced.lower.tolist(), priced.upper.tolist(), multiple)
    names = (
        "numbers of experts",
        "kinds of bounds",
        "lower bounds",
        "upper bounds",
        "multiplicity",
    )
    stated = shards.gathered(mine)
    for rank, other in enumerate(stated):
        for name, here, there in zip(names, stated[0], other, strict=True):
            if here != there:
                raise InputError(
                    f"Pricing(group=...): ranks 0 and {rank} state different {name}: {here} and "
                    f"{there}. Bounds on experts and the total are those of all ranks together."
                )
