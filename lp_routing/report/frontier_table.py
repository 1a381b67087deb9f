"""`lp-routing frontier` on the terminal: budgets and what they buy, and answers in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

ROUNDING = 1e-14
"""Relative gaps below this are rounding."""
MOST_LINES = 20
"""Of a table; of more points, so many are shown, evenly spread."""

UNITS = {
    "total": ("N", "pair"),
    "capacity": ("C", "slot at every expert"),
    "k": ("K", "expert for every token"),
    "layers": ("N", "pair"),
}
"""What a budget is -> its letter, and one unit of it."""

LEGEND = (
    "value: of the best assignment found. of most: relative to the budget that is worth most. last "
    "adds, next adds: the shadow prices on the left and on the right, what the last unit of this "
    "budget brings and one more would; two numbers are bounds of it. gap: to the proved bound."
)


def frontier_table(title: str, over: str, found: Mapping[str, Any]) -> Table:
    """A line for each budget: value, share of the most, shadow prices, gap."""
    table = Table(
        title=Text(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in (UNITS[over][0], "value", "of most", "last adds", "next adds", "gap"):
        table.add_column(name, justify="right", no_wrap=True)
    at = found["answers"]["at"]
    for point in few(found["points"], at):
        value = point["value"]
        share = f"{100 * value / found['largest']:.2f} %" if found["largest"] > 0 else "-"
        adds = (adds_in_words(point["last"]), adds_in_words(point["next"]))
        cells = (f"{point['budget']}", f"{value:.6g}", share, *adds, _gap(point))
        table.add_row(*cells, style="bold" if point["budget"] == at else "")
    return table


def few(points: Sequence[Mapping[str, Any]], at: int) -> list[Mapping[str, Any]]:
    """At most `MOST_LINES` points with the ends, and the one at the budget `at` if it is there."""
    steps = MOST_LINES - 2
    places = {round(i * (len(points) - 1) / steps) for i in range(steps + 1)}
    marked = {i for i, point in enumerate(points) if point["budget"] == at}
    return [points[i] for i in sorted(places | marked)]


def sentences(over: str, k: int, found: Mapping[str, Any]) -> list[str]:
    """The answers in words."""
    letter, one = UNITS[over]
    answers, most = found["answers"], found["largest"]
    said = [_token_choice(letter, k, answers["token_choice"])]
    if answers["shares"]:
        shares = [
            f"{100 * float(share):g} % {_attained(letter, by)}"
            for share, by in answers["shares"].items()
        ]
        said.append(f"Of the most that any {letter} buys, {most:.6g}: {'; '.join(shares)}.")
    if answers["in_use"] > answers["at"]:
        said.append(f"{letter} = {answers['in_use']} buys no more than {letter} = {answers['at']}.")
    said.append(_slot(letter, one, answers["there"]))
    said += _dearest(answers) + _next_layer(answers)
    costs = {
        f"Balance (exactly {k} a token, equal loads, against token choice)": "balance",
        f"Serving every token (of {_pairs(k)} a token on average)": "serving",
    }
    said += [_cost(what, answers[name]) for what, name in costs.items() if name in answers]
    routers = [_router(letter, each, answers["at"]) for each in found["routers"]]
    return [*said, *routers, _how_exact(found)]


def _pairs(k: int) -> str:
    return "1 pair" if k == 1 else f"{k} pairs"


def _token_choice(letter: str, k: int, token: Mapping[str, Any] | None) -> str:
    if token is None:
        return f"Token choice with k={k} has no answer: some token may not go to {k} experts."
    by = _attained(letter, token["attained_by"])
    return f"Token choice with k={k} is worth {token['value']:.6g}, attained {by}."


def _dearest(answers: Mapping[str, Any]) -> list[str]:
    if "expert" not in answers:
        return []
    dear = answers["expert"]
    return [
        f"The dearest expert at C = {answers['at']} is expert {dear['expert']}: its last slot is "
        f"worth {dear['last']:.4g}, one more there alone {dear['next']:.4g}."
    ]


def _next_layer(answers: Mapping[str, Any]) -> list[str]:
    if answers.get("next_layer") is None:
        return []
    split = ", ".join(map(str, answers["split"]))
    return [
        f"The next pair goes to layer {answers['next_layer']}; the best split of "
        f"N = {answers['at']} is {split}."
    ]


def _how_exact(found: Mapping[str, Any]) -> str:
    if found["breakpoints"] is not None:
        return f"Exact at every budget: {found['breakpoints']} breakpoints."
    between, most = found["between"], abs(found["largest"]) or 1.0
    solved = len(found["certified"]["budgets"])
    if between <= 1e-9 * most:
        return f"Proved at every budget, up to rounding, by {solved} that were solved."
    return (
        f"Between the {solved} budgets that were solved, the value is known within {between:.2g} "
        f"({100 * between / most:.2g} % of the most)."
    )


def adds_in_words(interval: Sequence[float] | None) -> str:
    """`0.123`, `0.12 to 0.15` where two bounds are known, or nothing past an end."""
    if interval is None:
        return ""
    low, high = interval
    if abs(high - low) <= 1e-6 * max(abs(low), abs(high), 1e-9):
        return f"{high:.4g}"
    return f"{low:.3g} to {high:.3g}"


def _gap(point: Mapping[str, Any]) -> str:
    gap = point["bound"] - point["value"]
    relative = gap / abs(point["bound"]) if point["bound"] else gap
    if abs(relative) < ROUNDING:
        return "0"
    return f"{relative:.0e}" if abs(relative) < 5e-5 else f"{100 * relative:.2f} %"


def _attained(letter: str, by: Sequence[int | None] | None) -> str:
    if by is None:
        return f"by no {letter}"
    needed, enough = by
    if needed == enough:
        return f"from {letter} = {enough} on"
    known = f"by no {letter} that is known" if enough is None else f"from {letter} = {enough} on"
    return f"{known}, and by none below {letter} = {needed}"


def _slot(letter: str, one: str, there: Mapping[str, Any]) -> str:
    """What a unit is worth at the budget that was asked about."""
    said = []
    if there["last"] is not None:
        said.append(f"the last {one} brings {adds_in_words(there['last'])}")
    if there["next"] is not None:
        more = "one more" if said else f"one more {one}"
        said.append(f"{more} would bring {adds_in_words(there['next'])}")
    return f"At {letter} = {there['budget']}, {', '.join(said) or 'the only budget'}."


def _cost(what: str, cost: Mapping[str, Any]) -> str:
    if "cannot" in cost:
        return f"{what} cannot be had: {cost['cannot']}"
    share = "" if cost["share"] is None else f", {100 * cost['share']:.3g} %"
    return (
        f"{what} costs {cost['lost']:.4g}{share}: {cost['constrained']:.6g} in place of "
        f"{cost['free']:.6g}."
    )


def _router(letter: str, curve: Mapping[str, Any], at: int) -> str:
    """What a router loses where it keeps all bounds, and at the budget in use."""
    name, tried = curve["name"], len(curve["budgets"])
    points = zip(curve["values"], curve["bounds"], curve["feasible"], strict=True)
    kept = [(value, bound) for value, bound, feasible in points if feasible]
    if not kept:
        return f"{name} breaks a bound at each of {tried} budgets."
    broken = f"; breaks a bound at {tried - len(kept)} of {tried}" if len(kept) < tried else ""
    lost = [100 * (1 - value / bound) for value, bound in kept if bound > 0]
    if not lost:
        return f"{name} has no share to lose of bounds that are not positive{broken}."
    places = [place for place, n in enumerate(curve["budgets"]) if n == at]
    value, bound, keeps = (curve[name] for name in ("values", "bounds", "feasible"))
    here = [100 * (1 - value[i] / bound[i]) for i in places if keeps[i] and bound[i] > 0]
    at_use = f"{max(0.0, here[0]):.2f} % of the bound at {letter} = {at}, " if here else ""
    return (
        f"{name} loses {at_use}{max(0.0, min(lost)):.2f} to {max(0.0, *lost):.2f} % "
        f"{'over all' if here else 'of the bound'}{broken}."
    )
