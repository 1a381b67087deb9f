"""How many tokens have experts that are decided by a tie, and is the tie rule documented?"""

import inspect
import re
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from lp_routing.audits.probe import (
    AuditedRouter,
    Finding,
    Probe,
    RouterLike,
    as_audited_router,
    as_logits,
    asking,
    compare,
    found,
    merged,
    refusals,
    register,
    try_all,
)
from lp_routing.router_outputs import NoRouterOutput
from lp_routing.validation import as_int

NAME = "ties"
QUESTION = "Are the experts of every token decided by its scores, and none by a tie?"
AXES = {"experts": -1, "tokens": -2}
SPAN, APART = 4.0, 0.002
"""Logits without ties lie between -`SPAN` and `SPAN`, moved by at most `APART` by token.

In units of the logits; `SPAN` is their usual size. With 256 experts neighbours are 8 / 255 = 0.031
apart: bfloat16 has steps of 0.016 up to 4, and `APART` does not reorder them. With 8,000 tokens its
steps are 5e-7, those of float32 at most 2.4e-7. A larger one would serve more tokens and fewer
experts.
"""
WORD = re.compile(r"\b(ties?|tied)\b", re.IGNORECASE)


@register()
@asking(NAME, QUESTION)
def ties(router: RouterLike | AuditedRouter, logits: Tensor, *, orders: int = 4) -> Finding:
    """Permute experts, or tokens, route, and undo the permutation.

    Where scores decide, the order does not matter; a rule such as "lowest index" chooses other
    experts exactly where scores tie. The reverse order is always tried: it reverses every such
    choice. Where a router depends on the order even on logits without ties (slots by position,
    groups of neighbouring experts), that axis says nothing of ties and is left out.

    Args:
        router: any callable that `lp_routing.audits.chosen` can ask.
        logits: (T, E) or (B, T, E).
        orders: how many orders of experts, and of tokens, to try.

    Returns:
        A `Finding` over all tokens. Its `numbers` are the shares for "experts" and "tokens"; "row
        ties", the tokens whose worst chosen logit equals their best other one; and "lower index",
        the share of those in which the lower expert was taken, where there are any. A tie of scores
        that is none of logits (a softmax that underflows, rounding) shows in the former only.
        "stated" is 1 where the router's documentation mentions ties, else 0.

    Raises:
        InputError: bad logits or orders, or a router that is not callable.

    Cost: `2 * orders` calls on the logits, as many on logits without ties, and two.

    Example:
        >>> lpr.audits.ties(lpr.routers.TopK(k=1), torch.tensor([[3.0, 1.0], [2.0, 1.0]])).verdict
        'holds'
    """
    ask, logits, orders = as_audited_router(router), as_logits(logits), as_int(orders, "orders", 1)
    plain, control = ask(logits), without_ties(logits)
    plain_control = ask(control)
    turned = partial(_turned, ask, (logits, plain), (control, plain_control), orders)
    probes, refused = try_all([(name, partial(turned, name)) for name in AXES])
    more = []
    row_ties, lower = _row_ties(logits, plain)
    stated = states_a_rule(ask.router)
    if row_ties:
        more.append(f"In {lower} of {row_ties} ties within a token the lower expert is taken.")
    more.append(f"Its documentation {'has a word' if stated else 'has no word'} on ties.")
    finding = found(
        NAME, QUESTION, "with the order of experts or tokens", probes, [*more, *refusals(refused)]
    )
    numbers = {
        **finding.numbers,
        "row ties": row_ties / plain[..., 0].numel(),
        "stated": float(stated),
    }
    if row_ties:
        numbers["lower index"] = lower / row_ties
    return replace(finding, numbers=numbers)


def without_ties(logits: Tensor) -> Tensor:
    """Logits of the same shape and forbidden pairs, without ties.

    Each token has the values of one grid, shuffled; an offset makes equal levels of different
    tokens differ. They differ in bfloat16 too up to 256 experts, and between tokens in float32 up
    to some 8,000 of them.
    """
    draw = torch.Generator().manual_seed(2)
    T, E = logits.shape[-2:]
    level = torch.rand(logits.shape, generator=draw).argsort(-1)
    token = torch.rand(logits.shape, generator=draw).argsort(-2).gather(-1, level)
    grid = SPAN * (2 * level.double() / max(1, E - 1) - 1)
    apart = APART * (2 * token.double() / max(1, T - 1) - 1)
    return torch.where(logits.isfinite(), (grid + apart).to(logits), logits)


def states_a_rule(router: RouterLike) -> bool:
    """Whether the docstring of a callable, or of its classes in the same package, mentions ties."""
    package = _package(type(router))
    classes = [c for c in type(router).__mro__ if _package(c) == package]
    if package in ("builtins", "torch", "functools"):  # their docstrings are not about this router
        classes = []
    own = router.__doc__ if inspect.isroutine(router) else None
    return any(WORD.search(text) for text in (own, *(c.__doc__ for c in classes)) if text)


def _package(kind: type) -> str:
    return kind.__module__.split(".")[0]


def _orders(n: int, count: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(3)
    reverse = torch.arange(n).flip(0)
    return [reverse, *(torch.randperm(n, generator=draw) for _ in range(count - 1))]


def _turned(
    ask: AuditedRouter,
    given: tuple[Tensor, Tensor],
    control: tuple[Tensor, Tensor],
    count: int,
    name: str,
) -> Probe:
    """Permute one axis, route, undo; on the control, which has no ties, nothing must change."""
    axis = AXES[name]
    orders = [order.to(given[0].device) for order in _orders(given[0].shape[axis], count)]

    def there_and_back(logits: Tensor, order: Tensor) -> Tensor:
        return ask(logits.index_select(axis, order)).index_select(axis, order.argsort())

    if not all(torch.equal(there_and_back(control[0], order), control[1]) for order in orders):
        raise NoRouterOutput(f"in another order of {name} it chooses otherwise without any tie")
    ways = ("as they stand", f"with the {name} in another order")
    probes = [compare(name, given[1], there_and_back(given[0], o), ways) for o in orders]
    return merged(name, probes)


def _row_ties(logits: Tensor, chosen: Tensor) -> tuple[int, int]:
    """Tokens whose worst chosen logit equals their best other; in how many the lower index won."""
    never = float("-inf")
    worst = logits.masked_fill(~chosen, float("inf")).amin(-1, keepdim=True)
    best = logits.masked_fill(chosen, never).amax(-1, keepdim=True)
    tied = (worst == best) & (best > never)
    level = logits == best
    places = torch.arange(logits.shape[-1], device=logits.device)
    last_taken = places.where(chosen & level, -1).amax(-1, keepdim=True)
    first_left = places.where(~chosen & level, logits.shape[-1]).amin(-1, keepdim=True)
    return int(tied.sum()), int((tied & (last_taken < first_left)).sum())
