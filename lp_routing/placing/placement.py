"""Who is where so far, and what every bound still allows or asks for."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lp_routing.certificate.prices import Prices, clipped, pair_prices
from lp_routing.problem.constraints import Family, disjoint_sets
from lp_routing.problem.problem import CHUNK_ENTRIES, RoutingProblem

INF = float("inf")


@dataclass(frozen=True, eq=False)
class Limit:
    """Bounds on disjoint sets of tokens or of experts.

    Attributes:
        of_tokens: whether the sets are sets of tokens.
        labels: int64 (T,) or (E,), the set of each token or expert; R where it is in none.
        lower: float64 (R,), pairs.
        upper: float64 (R,), pairs; inf where there is no upper bound.
    """

    of_tokens: bool
    labels: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def is_total(self) -> bool:
        """Whether it is one set of all experts, which no move between experts changes."""
        return not self.of_tokens and not bool(self.labels.any())

    def count(self, index: Tensor, amount: Tensor) -> Tensor:
        """What amounts (n,) of tokens or experts `index` (n,) add up to in each set, (R,)."""
        return sums_of(self.labels[index], amount, len(self.lower))[:-1]

    def of_each(self, values: Tensor, outside: float) -> Tensor:
        """The value (R,) of the set of each token (T,) or expert (E,); `outside` where none."""
        return torch.cat([values, values.new_full((1,), outside)])[self.labels]


class Placement:
    """Amounts that keep every upper bound of a problem with whole bounds, with what they use.

    Attributes:
        problem: what is asked.
        x: (T, E), boolean where every row is one token, else int64.
        per_token: float64 (T,), pairs of each row.
        load: float64 (E,), pairs of each expert.
        copies: float64 (T,), the multiplicity of each row.
        lower: float64 (T,), pairs that each row must take.
        upper: float64 (T,), pairs that each row may take.
        scale: no pair earns or loses more than this.
        limits: all other bounds, nested groups level by level.

    Raises:
        InputError: prices that cannot be of this problem.
    """

    def __init__(self, problem: RoutingProblem, prices: Prices) -> None:
        self.problem = problem
        self.on_tokens, self.on_experts = pair_prices(problem, clipped(problem, prices))
        self.scale = problem.score_scale + float(self.on_experts.abs().max())
        self.scale += float(self.on_tokens.abs().max())
        copies = problem.multiplicity
        one = torch.ones(1, dtype=torch.float64, device=problem.scores.device)
        self.copies = one.expand(problem.T) if copies is None else copies
        self.lower, self.upper = problem.token_bounds()
        self.limits = [
            limit
            for family in problem.families
            if family.kind != "token"
            for limit in _limits(family, problem.E)
        ]
        kind = torch.bool if problem.multiplicity is None else torch.int64
        self.set(torch.zeros(problem.T, problem.E, dtype=kind, device=problem.scores.device))

    def set(self, x: Tensor) -> None:
        """Start again from amounts (T, E)."""
        self.x = x
        self.per_token = self.copies.new_zeros(self.problem.T)
        self.load = self.copies.new_zeros(self.problem.E)
        for rows in self.problem.row_chunks():
            self.per_token[rows] = x[rows].sum(1).double()
            self.load += x[rows].sum(0).double()

    def add(self, token: Tensor, expert: Tensor, amount: Tensor) -> None:
        """Add whole amounts (n,) to distinct pairs, negative ones to take away."""
        for start in range(0, len(token), CHUNK_ENTRIES):
            part = slice(start, start + CHUNK_ENTRIES)
            rows, experts, more = token[part], expert[part], amount[part]
            if self.x.dtype == torch.bool:
                changed = more != 0
                self.x[rows[changed], experts[changed]] = more[changed] > 0
            else:
                self.x[rows, experts] += more.long()
        self.per_token.index_add_(0, token, amount)
        self.load.index_add_(0, expert, amount)

    def earned(self, rows: Tensor | slice, experts: Tensor | None = None) -> Tensor:
        """Scores minus prices of rows at some experts, float64 (n, C); -inf where forbidden."""
        scores = at(self.problem.scores, rows, experts).double()
        paid = self.on_experts if experts is None else self.on_experts[experts]
        return (scores - paid).sub_(self.on_tokens[rows, None])

    def gains(self, rows: Tensor | slice, experts: Tensor | None = None) -> Tensor:
        """As `earned`, and -inf too where all copies are taken."""
        taken = at(self.x, rows, experts)
        if taken.dtype != torch.bool:
            taken = taken >= self.copies[rows, None]
        return self.earned(rows, experts).masked_fill_(taken, -INF)

    def left(self, rows: Tensor | slice, experts: Tensor) -> Tensor:
        """How many copies of pairs (n, C) are not taken; the experts of each row are (n, C)."""
        return self.copies[rows, None] - self.x[rows].gather(1, experts).double()

    def counted(self, limit: Limit) -> Tensor:
        """What each set of a limit counts, float64 (R,)."""
        amounts = self.per_token if limit.of_tokens else self.load
        return limit.count(torch.arange(len(amounts), device=amounts.device), amounts)

    def room(self, rooms: list[Tensor], *, of_tokens: bool) -> Tensor:
        """The least room of the sets that each token (T,) or expert (E,) is in; inf where none.

        Args:
            rooms: one tensor (R,) for each limit.
            of_tokens: whether it is asked of tokens or of experts.
        """
        n = len(self.per_token if of_tokens else self.load)
        least = self.load.new_full((1,), INF).expand(n)
        for limit, room in zip(self.limits, rooms, strict=True):
            if limit.of_tokens == of_tokens:
                least = torch.minimum(least, limit.of_each(room, INF))
        return least

    def rooms(self) -> list[Tensor]:
        """What each limit still allows, float64 (R,)."""
        return [limit.upper - self.counted(limit) for limit in self.limits]

    def spares(self) -> list[Tensor]:
        """What each limit could do without, float64 (R,); negative where its demand is not met."""
        return [self.counted(limit) - limit.lower for limit in self.limits]

    def meets_demands(self) -> bool:
        """Whether all lower bounds are met."""
        met = [self.per_token - self.lower, *self.spares()]
        return not any(bool((spare < 0).any()) for spare in met)

    def chunks(self, rows: Tensor, width: int | None = None) -> list[Tensor]:
        """Some rows in parts small enough to work on in float64, at `width` or all experts."""
        parts = torch.split(rows, max(1, CHUNK_ENTRIES // (width or self.problem.E)))
        return [part for part in parts if len(part)]


def sums_of(labels: Tensor, amount: Tensor, R: int) -> Tensor:
    """What amounts (n,) add up to for each label 0 to R, float64 (R + 1,)."""
    return amount.new_zeros(R + 1).index_add_(0, labels, amount)


def at(matrix: Tensor, rows: Tensor | slice, columns: Tensor | None) -> Tensor:
    """Entries of a matrix at some rows and some columns, or all columns."""
    if columns is None:
        return matrix[rows]
    if isinstance(rows, slice) or 2 * len(columns) > matrix.shape[1]:
        return matrix[rows][:, columns]
    return matrix[rows[:, None], columns]


def _limits(family: Family, E: int) -> list[Limit]:
    """A family as limits on disjoint sets; groups that share members come one level apart."""
    of_tokens, device = family.kind == "token_group", family.lower.device
    if family.members is None:
        labels = torch.arange(E, device=device)
        labels = labels if family.kind == "expert" else torch.zeros_like(labels)
        return [Limit(of_tokens, labels, family.lower, family.upper)]
    limits = []
    for rows in disjoint_sets(family.members):
        labels = torch.full(family.members.shape[1:], len(rows), dtype=torch.int64, device=device)
        for label, row in enumerate(rows):
            labels[family.members[row]] = label
        limits.append(Limit(of_tokens, labels, family.lower[rows], family.upper[rows]))
    return limits
