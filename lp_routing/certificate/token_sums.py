"""What a certificate adds up over tokens, in one pass over chunks of rows.

Everything that depends on single scores is here and adds up: the sums of two sets of tokens, such
as the shards of a batch, are those of all tokens together. What is left, prices times limits and
loads beside limits, is small and is done once (`lp_routing.certificate.certificate`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lp_routing.certificate.best_response import Response, best_response
from lp_routing.certificate.exact_arithmetic import Dot, Number, exact_dot, float_dot
from lp_routing.certificate.prices import pair_prices
from lp_routing.certificate.violations import Taken, nothing_taken, taken_in
from lp_routing.problem.problem import RoutingProblem


@dataclass(frozen=True)
class Earned:
    """What tokens would earn, each alone, at given prices: their part of a bound.

    Attributes:
        worth: sum of scores minus prices of what they would take.
        magnitude: sum of the sizes of these scores and prices.
        possible: whether every token has enough allowed pairs for its lower bound.
    """

    worth: Number = 0
    magnitude: float = 0.0
    possible: bool = True

    def __add__(self, other: "Earned") -> "Earned":
        """What two sets of tokens would earn."""
        return Earned(
            self.worth + other.worth,
            self.magnitude + other.magnitude,
            self.possible and other.possible,
        )


@dataclass(frozen=True, eq=False)
class TokenSums:
    """All that a certificate needs of a set of tokens; two sets add up with `+`.

    Attributes:
        taken: what the assignment takes, and which pairs and tokens break their bounds.
        earned: what the tokens would earn, once for each table of prices.
    """

    taken: Taken
    earned: tuple[Earned, ...]

    def __add__(self, other: "TokenSums") -> "TokenSums":
        """The sums of two sets of tokens."""
        pairs = zip(self.earned, other.earned, strict=True)
        return TokenSums(self.taken + other.taken, tuple(a + b for a, b in pairs))


def token_sums(
    problem: RoutingProblem,
    x: Tensor | None,
    tables: Sequence[dict[str, Tensor]],
    *,
    exact: bool = False,
) -> TokenSums:
    """The sums over all tokens of a problem, each chunk of rows read once for each table.

    Args:
        problem: its scores, multiplicity and bounds of tokens are used, and its token groups.
        x: amounts (T, E), or None where only the bound is asked for.
        tables: one or more tables of prices, as `prices.clipped` returns them.
        exact: add up fractions, not float64.

    Raises:
        InputError: NaN or infinite amounts.
    """
    dot: Dot = exact_dot if exact else float_dot
    sums = TokenSums(nothing_taken(problem), tuple(Earned() for _ in tables))
    paid = [pair_prices(problem, table) for table in tables]
    chunks = zip(*(best_response(problem, *p, exact_order=exact) for p in paid), strict=True)
    for responses in chunks:
        rows, scores = responses[0].rows, responses[0].matrix
        taken = sums.taken
        if x is not None:
            taken = taken + taken_in(problem, rows, scores, x[rows], dot)
        pairs = zip(sums.earned, responses, strict=True)
        sums = TokenSums(taken, tuple(earned + _earned_by(r, dot) for earned, r in pairs))
    return sums


def _earned_by(response: Response, dot: Dot) -> Earned:
    if not response.possible:
        return Earned(possible=False)
    amounts = response.amounts
    return Earned(
        worth=dot(amounts, response.scores) - dot(amounts, response.prices),
        magnitude=float_dot(amounts, response.scores.abs() + response.prices.abs()),
    )
