"""One budget of pairs shared by all layers."""

from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.frontier.concave import Concave, Merged, merged
from lp_routing.frontier.total import over_total
from lp_routing.problem.bounds import at_least
from lp_routing.problem.problem import RoutingProblem
from lp_routing.validation import as_tensor, flag


def over_layers(scores: Tensor, *, serve: bool = False) -> Merged:
    """The best total of every budget that layers share, and which layer gets which pair.

    Args:
        scores: (L, T, E), what pairs are worth in one unit for all layers, as shares of a softmax
            are and raw logits are not; -inf forbids a pair.
        serve: every token gets at least one expert in every layer; the budget begins with these.

    Returns:
        The merged curve, exact at every budget; ties go to the earlier layer.

    Raises:
        InputError: not (L, T, E), NaN, +inf; with `serve`, a token without an expert.

    A learnt rule for the same question is SoftMoE's (Zasada et al. 2026),
    `lp_routing.routers.soft_top_k.layer_budgets`; `lp_routing.frontier.best_budgets` proves
    one split by its price.
    """
    values = as_tensor(scores, "scores", "numbers (layers, tokens, experts)")
    if values.ndim != 3 or not len(values):
        raise InputError(
            f"scores: expected numbers (layers, tokens, experts), got shape "
            f"{tuple(values.shape)}; of one layer write scores[None]."
        )
    tokens = at_least(1) if flag(serve, "serve") else None
    curves = []
    for layer, given in enumerate(values):
        try:
            curve = over_total(RoutingProblem(given, tokens=tokens))
        except InputError as error:
            raise InputError(f"layer {layer}: {error}") from error
        if isinstance(curve, Concave):  # tokens alone are bounded
            curves.append(curve)
    return merged(curves)
