"""What audits share: ask a router in two situations, compare token by token, say what was found.

`AuditedRouter` asks any callable for the pairs it chooses; a `Probe` is one comparison; a `Finding`
is the answer to one question, with the number of tokens, the first of them, and a sentence.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial, wraps
from numbers import Real
from threading import Thread
from traceback import format_exception
from types import MappingProxyType
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.router_outputs import (
    ACCEPTED,
    NoRouterOutput,
    RouterOutput,
    choices,
    read_output,
)
from lp_routing.scores import check_logits
from lp_routing.validation import as_tensor

Verdict = Literal["holds", "fails", "not asked"]
MOST_NAMED = 8
"""Most experts that a sentence lists; of more it lists the first three."""


@dataclass(frozen=True)
class Example:
    """One token and its experts in two situations.

    Attributes:
        token: its index, (t,) or (b, t) for token t of sequence b.
        before: its experts in the first situation.
        after: its experts in the second.
        ways: the two situations in words, such as ("alone", "with the others").
    """

    token: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    ways: tuple[str, str]

    def __str__(self) -> str:
        *sequence, token = self.token
        which = f"token {token}" + "".join(f" of sequence {b}" for b in sequence)
        first, second = self.ways
        return (
            f"{which} goes to {experts_in_words(self.before)} {first}, "
            f"to {experts_in_words(self.after)} {second}"
        )


@dataclass(frozen=True)
class Finding:
    """The answer to one question about one router on one batch.

    Attributes:
        audit: the name of the audit.
        question: what was asked; "holds" is yes, "fails" is no.
        verdict: "holds", "fails", or "not asked", where the question makes no sense for the input
            or the router gives no usable answer.
        sentence: the finding in plain words.
        count: tokens (for feasibility: bounds) that fail; None where nothing was counted.
        of: how many were asked.
        example: the first token that fails.
        numbers: what else was measured, by name: shares, margins, amounts.
        at_least: whether the count is a lower bound, since not every place was tried.
        note: how the router's answers were read, where they are ambiguous.
        traceback: of an exception of the router that kept the question from being answered.
    """

    audit: str
    question: str
    verdict: Verdict
    sentence: str
    count: int | None = None
    of: int | None = None
    example: Example | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    at_least: bool = False
    note: str = ""
    traceback: str = ""

    @property
    def share(self) -> float | None:
        """`count / of`; None where nothing was counted."""
        return None if self.count is None or not self.of else self.count / self.of

    def as_json(self) -> dict[str, Any]:
        """All attributes and the share, as JSON values; no traceback, which names local paths."""
        values = {name: value for name, value in asdict(self).items() if name != "traceback"}
        return {**values, "share": self.share}


def unasked(audit: str, question: str, reason: object) -> Finding:
    """A finding "not asked", and why."""
    says = f"Not asked: {stripped(reason)}."
    return Finding(audit, question, "not asked", says, traceback=traceback_of(reason))


def unanswered(audit: str, question: str, situation: str, reason: object) -> Finding:
    """A finding "fails": the router gave no answer where it should have."""
    says = f"No answer {situation}: {stripped(reason)}."
    return Finding(audit, question, "fails", says, traceback=traceback_of(reason))


def traceback_of(reason: object) -> str:
    """The traceback of the exception behind a reason; "" where there is none."""
    raised = reason.__cause__ if isinstance(reason, NoRouterOutput) else None
    return "" if raised is None else "".join(format_exception(raised))


def counted(count: int, of: int, one: str, many: str) -> str:
    """`None of 8 {one}`, `1 of 8 {one} (12.5 %)`, `2 of 8 {many} (25 %)`."""
    if not count:
        return f"None of {of} {one}"
    return f"{count} of {of} {one if count == 1 else many} ({100 * count / of:.3g} %)"


def experts_in_words(experts: tuple[int, ...]) -> str:
    """`no expert`, `expert 1`, `experts 1 and 4`; long lists are cut."""
    if not experts:
        return "no expert"
    if len(experts) == 1:
        return f"expert {experts[0]}"
    if len(experts) > MOST_NAMED:
        return f"{len(experts)} experts ({', '.join(map(str, experts[:3]))}, ...)"
    *most, last = map(str, experts)
    return f"experts {', '.join(most)} and {last}"


def stripped(reason: object) -> str:
    """A reason without its full stop, to end a sentence with."""
    return str(reason).rstrip(".")


@dataclass(frozen=True, eq=False)
class Probe:
    """One comparison: which tokens were asked, which of them changed, and the first that did.

    Attributes:
        name: what was varied; several probes may share a name.
        asked: boolean (..., T).
        changed: boolean (..., T), within `asked`.
        example: the first token that changed.
    """

    name: str
    asked: Tensor
    changed: Tensor
    example: Example | None


def compare(
    name: str, before: Tensor, after: Tensor, ways: tuple[str, str], asked: Tensor | None = None
) -> Probe:
    """Compare the chosen pairs (..., T, E) of two calls, on the tokens `asked` (..., T) or (T,)."""
    everyone = torch.ones_like(before[..., 0]) if asked is None else asked.expand(before.shape[:-1])
    changed = (before != after).any(-1) & everyone
    return Probe(name, everyone, changed, first_example(before, after, changed, ways))


def first_example(
    before: Tensor, after: Tensor, which: Tensor, ways: tuple[str, str]
) -> Example | None:
    """The first of the tokens `which` (..., T), with its experts in both calls."""
    if not bool(which.any()):
        return None
    token = tuple(int(i) for i in which.nonzero()[0])
    return Example(token, _experts(before[token]), _experts(after[token]), ways)


def try_all(
    named: Iterable[tuple[str, Callable[[], Probe]]],
) -> tuple[list[Probe], dict[str, NoRouterOutput]]:
    """The probes the router answered, and the first reason for each name under which it did not.

    Raises:
        NoRouterOutput: it answered none of them.
    """
    probes: list[Probe] = []
    refused: dict[str, NoRouterOutput] = {}
    for name, ask in named:
        try:
            probes.append(ask())
        except NoRouterOutput as reason:
            refused.setdefault(name, reason)
    if not probes:
        raise next(iter(refused.values()), NoRouterOutput("there is nothing to ask"))
    return probes, refused


def refusals(refused: Mapping[str, NoRouterOutput]) -> list[str]:
    """A sentence for each name under which the router did not answer."""
    return [f"Not all asked ({name}): {stripped(why)}." for name, why in refused.items()]


def found(
    audit: str,
    question: str,
    when: str,
    probes: Sequence[Probe],
    more: Iterable[str] = (),
    refused: Mapping[str, NoRouterOutput] = MappingProxyType({}),
) -> Finding:
    """One finding of all probes: a token counts if it changed in any of them.

    Args:
        audit: its name.
        question: what was asked.
        when: the situation in words, as in "3 of 8 tokens change experts {when}".
        probes: at least one.
        more: sentences to add.
        refused: what the router did not answer, as `try_all` returns it; if no other probe fails,
            the verdict is then "not asked".
    """
    union = merged(audit, probes)
    count, of, example = int(union.changed.sum()), int(union.asked.sum()), union.example
    sentence = counted(count, of, f"tokens changes experts {when}", f"tokens change experts {when}")
    if example is not None:
        sentence += f": {example}"
    names = dict.fromkeys(p.name for p in probes)
    return Finding(
        audit=audit,
        question=question,
        verdict="fails" if count else "not asked" if refused else "holds",
        sentence=" ".join([f"{sentence}.", *more, *refusals(refused)]),
        count=count,
        of=of,
        example=example,
        numbers={
            name: _share(merged(name, [p for p in probes if p.name == name])) for name in names
        },
        traceback=next(filter(None, map(traceback_of, refused.values())), ""),
    )


def merged(name: str, probes: Sequence[Probe]) -> Probe:
    """Several probes as one: a token was asked, and changed, if it was so in any of them."""
    examples = [p.example for p in probes if p.example is not None]
    return Probe(
        name,
        torch.stack([p.asked for p in probes]).any(0),
        torch.stack([p.changed for p in probes]).any(0),
        min(examples, key=lambda example: example.token, default=None),
    )


def placed(probe: Probe, places: Tensor, tokens: int) -> Probe:
    """A probe of n tokens as a probe of all T; `places` (n,) are their indices."""
    asked = torch.zeros(tokens, dtype=torch.bool, device=probe.asked.device)
    changed = asked.clone()
    asked[places], changed[places] = probe.asked, probe.changed
    example = probe.example
    if example is not None:
        example = replace(example, token=(int(places[example.token[-1]]),))
    return Probe(probe.name, asked, changed, example)


def sequence_places(sequence: Any, logits: Tensor) -> list[Tensor]:
    """The token indices of each sequence, in reading order; sequences in order of first occurrence.

    Args:
        sequence: whole numbers (T,), the sequence of each token.
        logits: (T, E).

    Raises:
        InputError: another shape, no whole numbers, or logits that are no flat batch.
    """
    values = as_tensor(sequence, "sequence", "whole numbers")
    whole = not (values.is_floating_point() or values.is_complex())
    if logits.ndim != 2 or values.shape != logits.shape[:1] or not whole:
        raise InputError(
            f"sequence: expected a whole number for each token of logits (T, E), got "
            f"{values.dtype} of shape {tuple(values.shape)} for logits {tuple(logits.shape)}."
        )
    _, number = torch.unique(values.cpu(), return_inverse=True)
    order = number.argsort(stable=True)
    parts = [part.to(logits.device) for part in order.split(number.bincount().tolist())]
    return sorted(parts, key=lambda part: int(part[0]))


def spread_out(count: int, most: int) -> list[int]:
    """Up to `most` of the integers 0 to `count` - 1, evenly spaced."""
    few = min(count, most)
    return [i * count // few for i in range(few)]


def negated(logits: Tensor) -> Tensor:
    """The logits negated; forbidden pairs stay forbidden."""
    return torch.where(logits.isfinite(), -logits, logits)


def redrawn(logits: Tensor, seed: int = 1) -> Tensor:
    """Normal random logits, twice as wide as the given ones; forbidden pairs stay forbidden."""
    known = logits[logits.isfinite()].double()
    spread = float(known.std()) if known.numel() > 1 else 0.0
    draw = torch.Generator().manual_seed(seed)
    normal = torch.randn(logits.shape, generator=draw).to(logits)
    return torch.where(logits.isfinite(), normal * (2 * spread or 2.0), logits)


def _experts(row: Tensor) -> tuple[int, ...]:
    return tuple(int(j) for j in row.nonzero()[:, 0])


def _share(probe: Probe) -> float:
    return int(probe.changed.sum()) / max(1, int(probe.asked.sum()))


RouterLike = Callable[..., Any]
"""logits (T, E) or (B, T, E) -> anything that `lp_routing.router_outputs.read_output` reads."""

LIMIT_S = 30.0
"""Seconds that one call of a router may take, unless said otherwise.

A larger limit waits longer for a router that hangs, in each of some fifty calls; a smaller one
gives up slow routers. The slowest of the catalogue, capped expert choice with a cap of k, takes 22
s on a layer of the sample (4,096 x 32, one core).
"""


@dataclass(frozen=True)
class AuditedRouter:
    """A router under audit: called without state, seeded, on copies, with a time limit.

    Attributes:
        router: any callable; see `chosen` for what it may return. One with a state is called
            without it. A parameter named `mask` is taken to be booleans, True for real tokens.
        limit_s: seconds a call may take. A call that takes longer is given up but cannot be
            stopped: its thread runs on until it returns or the process ends.
        learnt: the "layout" of its answers so far and a "note" on how they are read. The layout
            decides how to read answers whose shape is ambiguous, such as indices for a prefix with
            T = E.
    """

    router: RouterLike
    limit_s: float = LIMIT_S
    learnt: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not callable(self.router):
            raise InputError(
                f"router: expected a callable, logits (T, E) -> {ACCEPTED}; "
                f"got {type(self.router).__name__}."
            )
        number = isinstance(self.limit_s, Real) and not isinstance(self.limit_s, bool)
        if not number or not self.limit_s > 0:
            raise InputError(f"limit_s={self.limit_s!r}: expected a number of seconds > 0.")

    @property
    def takes_mask(self) -> bool:
        """Whether the router has a parameter named `mask`."""
        try:
            return "mask" in inspect.signature(self.router).parameters
        except (TypeError, ValueError):  # some callables written in C have no signature
            return False

    def __call__(self, logits: Tensor, mask: Tensor | None = None, seed: int = 0) -> Tensor:
        """The chosen pairs, boolean, of the shape of the logits.

        Raises:
            NoRouterOutput: the router raised, took too long, or its output cannot be read as pairs.
        """
        devices = [logits.device] if logits.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # the caller's random numbers stay as they are
            torch.manual_seed(seed)
            usual = self.learnt.get("layout", "")
            read = _within(self.limit_s, lambda: _answer(self.router, logits, mask, usual))
        self.learnt["layout"] = read.layout
        self.learnt["note"] = self.learnt.get("note") or read.note
        return choices(read.amounts)

    @property
    def note(self) -> str:
        """How its answers were read, where they are ambiguous."""
        return self.learnt.get("note", "")


def as_audited_router(router: "RouterLike | AuditedRouter") -> AuditedRouter:
    """The audited router itself, or the callable as one."""
    return router if isinstance(router, AuditedRouter) else AuditedRouter(router)


def as_logits(values: Any) -> Tensor:
    """Logits (T, E) or (B, T, E) to audit on, in their own dtype.

    Raises:
        InputError: as `lp_routing.scores.check_logits`, or another number of axes.
    """
    checked = check_logits(values)
    if checked.ndim > 3:
        raise InputError(
            f"logits: an audit takes (T, E) or (B, T, E), got shape {tuple(checked.shape)}."
        )
    return values.detach() if isinstance(values, Tensor) else checked


def chosen(router: RouterLike, logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Ask a router once for the pairs it chooses; boolean, of the shape of the logits.

    Raises:
        InputError: no callable, or logits that `as_logits` refuses.
        NoRouterOutput: its output cannot be read as pairs; what it raises itself is passed on.

    Example:
        >>> lpr.audits.chosen(lpr.routers.TopK(k=1), torch.tensor([[3.0, 1.0]])).tolist()
        [[True, False]]
    """
    called = as_audited_router(router).router  # which checks that it can be called
    return choices(_answer(called, as_logits(logits), mask).amounts)


@torch.no_grad()
def _answer(
    router: RouterLike, logits: Tensor, mask: Tensor | None, usual: str = ""
) -> RouterOutput:
    """The router's answer, read; `usual` is the layout where its shape is ambiguous."""
    copy = logits.clone()  # a router may write to what it is given
    answer = router(copy) if mask is None else router(copy, mask=mask)
    return read_output(answer, logits, usual=usual)


def _within(limit_s: float, call: Callable[[], RouterOutput]) -> RouterOutput:
    """The result of a call, unless it raises or takes longer."""
    outcome: list[RouterOutput | BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # any exception here is the router's
            outcome.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    if not outcome:
        raise NoRouterOutput(f"it did not return in {limit_s:g} s")
    result = outcome[0]
    if isinstance(result, NoRouterOutput):
        raise result
    if isinstance(result, BaseException):
        first_line = (str(result).splitlines() or [""])[0]
        raise NoRouterOutput(f"it raised {type(result).__name__}: {first_line}") from result
    return result


Audit = Callable[..., Finding]
"""(router, logits, sequence=None) -> Finding."""
Asked = TypeVar("Asked", bound=Callable[..., Finding])
Given = ParamSpec("Given")

AUDITS: list[Audit] = []
"""What `lp_routing.audits.audit` asks, in the order in which `lp_routing.audits` imports them."""


MOST_SEQUENCES = 64
"""Most sequences that an audit examines one by one, evenly spaced over the batch.

More find dependences in more places, at 10 to 30 calls of the router for each. On layer 0 of the
sample as 256 sequences all audits of `token-choice` take some 3 s, those of `prices` some 10 s,
with 32, 64 and 128 alike (`lp_routing.audits.audit`); it is slow routers that more would hold up.
"""


def asking(
    name: str, question: str
) -> Callable[[Callable[Given, Finding]], Callable[Given, Finding]]:
    """Decorator: the audit finds "not asked" where the router gives no usable answer."""

    def wrapped(audit: Callable[Given, Finding]) -> Callable[Given, Finding]:
        @wraps(audit)
        def ask(*given: Given.args, **options: Given.kwargs) -> Finding:
            try:
                return audit(*given, **options)
            except NoRouterOutput as reason:
                return unasked(name, question, reason)

        return ask

    return wrapped


def register(*variants: Mapping[str, Any], by_sequence: bool = False) -> Callable[[Asked], Asked]:
    """Decorator: `lp_routing.audits.audit` runs this audit once for each set of options, or once.

    Args:
        variants: the sets of options; none for a single run.
        by_sequence: whether it depends on the order of tokens, and so takes `sequence`.
    """

    def enter(audit: Asked) -> Asked:
        ask = audit if by_sequence else partial(_on_the_batch, audit)
        AUDITS.extend(partial(ask, **options) for options in variants or ({},))
        return audit

    return enter


def _on_the_batch(
    audit: Callable[..., Finding],
    router: AuditedRouter,
    logits: Tensor,
    *,
    sequence: Tensor | None = None,  # noqa: ARG001 - the audit does not depend on the order
    **options: Any,
) -> Finding:
    return audit(router, logits, **options)
