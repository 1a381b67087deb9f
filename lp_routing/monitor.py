"""The certified gap of a model's routing while it trains.

Every few steps, and for each layer, the router's choice is measured against the optimum of the
batch under a capacity. The bound holds at any prices, old ones too: fresh prices from
`MinCostFlow` now and then, and one pass over the scores with the last ones in between. Old prices
make the bound looser, never wrong.

    monitor = lpr.monitor.CertifiedGap(k=2, log=print)
    with monitor.watch(model):        # hooks on its routers; the model's outputs are not changed
        for batch in batches:
            ...                       # forward, backward, optimiser
            monitor.step()            # now and then a dict of numbers to `log`

`monitor.update(name, logits)` does the same by hand. The numbers of a layer and step:

* `gap`: 1 - value / bound, what the rule loses at most; `bound` and `value` in scores;
* `dropped`: share of the k T pairs that the rule leaves out;
* `max_violation`, `load_entropy`: of the loads that the tokens ask for, before any capacity;
* `price`, `max_price`: mean and largest shadow price of a slot; `price_age`: their age in steps.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lp_routing import scores as scoring
from lp_routing.certificate.certificate import certify, dual_bound
from lp_routing.certificate.prices import Prices
from lp_routing.errors import InputError
from lp_routing.evaluation.evaluate import max_violation, normalised_entropy
from lp_routing.problem import named as problems
from lp_routing.problem.assignment import Assignment
from lp_routing.problem.capacity_factor import CapacityFactor
from lp_routing.problem.problem import RoutingProblem
from lp_routing.router_outputs import read_output
from lp_routing.solvers.min_cost_flow.solver import MinCostFlow
from lp_routing.solvers.solve import solve
from lp_routing.traces.capture import on_router_calls
from lp_routing.traces.reading_order import by_name
from lp_routing.traces.trace import as_mask
from lp_routing.validation import as_callable, as_int, as_path

if TYPE_CHECKING:
    from transformers import TrainerCallback

Log = Callable[[dict[str, float]], object]


class _Layer:
    """A layer between two steps: its prices, and the sums of this step.

    Attributes:
        prices: the last that were solved for, and `fresh`, the step of that.
        sums: value, bound, kept pairs, asked pairs, then the load of each expert; None before the
            first batch of a step.
        violation: the largest amount by which a batch breaks a bound.
    """

    def __init__(self) -> None:
        self.prices: Prices | None = None
        self.fresh = 0
        self.sums: Tensor | None = None
        self.violation = 0.0

    def prices_for(self, problem: RoutingProblem, name: str, step: int, every: int) -> Prices:
        """The last prices, or fresh ones where those are too old.

        Raises:
            InputError: another number of experts than before.
        """
        before = None if self.prices is None else self.prices.experts
        if before is not None and len(before) != problem.E:
            raise InputError(
                f"{name}: {problem.E} experts, {len(before)} in the batch before; expected the "
                f"same in every batch of a layer."
            )
        if self.prices is None or step - self.fresh >= every:
            found = solve(problem, MinCostFlow(start=self.prices)).prices
            self.prices, self.fresh = found, step
        return self.prices

    def numbers(self, sums: Tensor, step: int) -> dict[str, float]:
        """The numbers of a step; no gap where the choice breaks the capacity."""
        value, bound, kept, asked = sums[:4].tolist()
        load = sums[4:]
        assert self.prices is not None
        price = self.prices.experts
        found = {
            "value": value,
            "bound": bound,
            "dropped": 1 - kept / asked,
            "violation": self.violation,
            "max_violation": float(max_violation(load)),
            "load_entropy": float(normalised_entropy(load)),
            "price": 0.0 if price is None else float(price.mean()),
            "max_price": 0.0 if price is None else float(price.max()),
            "price_age": float(step - self.fresh),
        }
        if self.violation == 0 and bound:
            found["gap"] = (bound - value) / abs(bound)
        return found


class CertifiedGap:
    """Certificates of a model's routing while it trains.

    Args:
        k: experts per token.
        capacity_factor: slots of an expert over an equal share of the pairs, for the optimum and
            for the default router.
        router: from logits (T, E) to a choice, any form that `certify` takes; left out, row top-k
            that drops by score at the capacity. Where the model's own choice is known, give it to
            `update`.
        score: how logits become values, a function or a name from `lp_routing.scores`.
        every: steps from one solve to the next; in between, old prices. More is cheaper, and the
            bound looser.
        stride: steps from one measurement to the next; 1 measures every step. What both cost is
            measured by `python -m benchmarks.monitor`.
        log: takes a dict of numbers a step: "step" and "NAME/gap" for each layer, and so on.
        group: a `torch.distributed` process group: `step` adds up values, bounds and loads of its
            ranks. Every rank has the optimum of its own tokens, as where capacities are local.

    Raises:
        InputError: k, every or stride below 1, a log or router that cannot be called.

    Example:
        >>> monitor = lpr.monitor.CertifiedGap(k=1, capacity_factor=1.0)
        >>> monitor.update("layer 0", torch.tensor([[2.0, 0.0], [1.0, 0.0]]))
        >>> found = monitor.step()
        >>> found["layer 0/dropped"]  # one slot an expert: one of the two tokens is dropped
        0.5
    """

    def __init__(
        self,
        k: int,
        *,
        capacity_factor: float = 1.25,
        router: Callable[[Tensor], Any] | None = None,
        score: scoring.ScoreFunction | str = "softmax",
        every: int = 50,
        stride: int = 4,
        log: Log | None = None,
        group: Any = None,
    ) -> None:
        self.k = as_int(k, "k", 1)
        self.every, self.stride = as_int(every, "every", 1), as_int(stride, "stride", 1)
        self.capacity = CapacityFactor(capacity_factor)
        self.score = scoring.named(score)
        self.router = None if router is None else as_callable(router, "router", "a router")
        self.log = None if log is None else as_callable(log, "log", "a function of a dict")
        self.group = group
        self.steps = 0
        self._layers: dict[str, _Layer] = {}

    @torch.no_grad()
    def update(
        self, name: str, logits: Tensor, *, mask: Tensor | None = None, chosen: Any = None
    ) -> None:
        """Certify one batch of a layer; several in a step add up.

        Args:
            name: of the layer.
            logits: (..., E), on any device; they are not changed and not kept.
            mask: (...), true for real tokens; left out, all are.
            chosen: the model's own choice for the real tokens, in any form that `certify` takes;
                left out, the router decides.

        Raises:
            InputError: NaN in logits, a mask of another shape, fewer experts than k, other experts
                than in the batch before.
        """
        if self.steps % self.stride:
            return
        if mask is not None and not bool(torch.as_tensor(mask).any()):  # all padding
            return
        rows = logits.detach().reshape(-1, logits.shape[-1])
        real = as_mask(mask, len(rows), name)
        rows = rows if real is None else rows[real.to(rows.device)]
        layer = self._layers.setdefault(name, _Layer())
        T, E = rows.shape
        values = self.score(rows, None)
        capacity = self.capacity.of(T, E, self.k)
        problem = problems.capacity(values, self.k, capacity)
        prices = layer.prices_for(problem, name, self.steps, self.every)
        found = values.topk(self.k)
        if chosen is None and self.router is None:
            taken = _kept_by_score(found.values, found.indices, capacity)
        else:
            answer = self.router(rows) if chosen is None and self.router else chosen
            amounts = read_output(answer, rows).amounts
            certificate = certify(problem, Assignment(amounts), prices)
            layer.violation = max(layer.violation, certificate.violation)
            taken = float(certificate.value), float(amounts.sum())
        bound = dual_bound(problem, prices)
        sums = torch.tensor([taken[0], bound, taken[1], self.k * T], dtype=torch.float64)
        load = torch.bincount(found.indices.flatten(), minlength=E).double().cpu()
        sums = torch.cat([sums, load])
        layer.sums = sums if layer.sums is None else layer.sums + sums

    def step(self) -> dict[str, float]:
        """End a step: its numbers, which are also given to `log`; empty where nothing was seen."""
        found: dict[str, float] = {}
        for name, layer in self._layers.items():
            if layer.sums is not None:
                numbers = layer.numbers(_over_ranks(layer.sums, self.group), self.steps)
                found |= {f"{name}/{what}": value for what, value in numbers.items()}
                layer.sums, layer.violation = None, 0.0
        self.steps += 1
        if found and self.log is not None:
            self.log({"step": self.steps, **found})
        return found

    @contextmanager
    def watch(
        self,
        model: nn.Module,
        names: str | Sequence[str] | None = None,
        *,
        select: Callable[[Any], Any] | None = None,
    ) -> Iterator["CertifiedGap"]:
        """Update from every router of a model inside a `with` block, while it is in training mode.

        Passes that gradient checkpointing repeats are left out; so is padding, where the model is
        called with an `attention_mask` (B, S).

        Args:
            model: any module; its outputs are not changed.
            names: patterns of the routers' names; left out, the routers of transformers by class.
            select: from a router's output to its logits, as in `lpr.traces.capture`.

        Raises:
            InputError: as `lpr.traces.capture`.

        Example:
            >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4))  # one router of four experts
            >>> monitor = lpr.monitor.CertifiedGap(k=2)
            >>> with monitor.watch(model, "0"):
            ...     hidden = model(torch.randn(64, 8))
            ...     found = monitor.step()
            >>> 0 <= found["0/gap"] < 1
            True
        """
        masks: list[Tensor | None] = [None]

        def begin(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
            masks[0] = by_name(module, args, kwargs).get("attention_mask")

        def do(name: str, logits: Tensor) -> None:
            if model.training:
                mask, tokens = masks[0], logits.shape[:-1].numel()
                fits = isinstance(mask, Tensor) and mask.ndim == 2 and mask.numel() == tokens
                self.update(name, logits, mask=mask if fits else None)

        handle = model.register_forward_pre_hook(begin, with_kwargs=True)
        try:
            with on_router_calls(model, names, select, do):
                yield self
        finally:
            handle.remove()


def _kept_by_score(values: Tensor, ids: Tensor, capacity: int) -> tuple[float, float]:
    """Value and number of the pairs that are kept by score, of the k best (T, k) of each token."""
    worth, expert = values.flatten().double(), ids.flatten()
    load = torch.bincount(expert)
    value, kept = float(worth.sum()), len(worth)
    for j in (load > capacity).nonzero().flatten().tolist():
        over = worth[expert == j]
        value -= float(over.sum() - over.topk(capacity).values.sum())
        kept -= len(over) - capacity
    return value, float(kept)


def _over_ranks(sums: Tensor, group: Any) -> Tensor:
    """The sums of all ranks of a process group."""
    if group is None:
        return sums
    on = torch.device("cuda") if torch.distributed.get_backend(group) == "nccl" else sums.device
    total = sums.to(on)
    torch.distributed.all_reduce(total, group=group)
    return total.cpu()


def to_jsonl(path: str | Path) -> Log:
    """A log that appends a line of JSON for each step that is measured.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/run.jsonl"
        >>> lpr.monitor.to_jsonl(path)({"step": 1, "layer/gap": 0.25})
        >>> from pathlib import Path
        >>> Path(path).read_text().strip()
        '{"step": 1, "layer/gap": 0.25}'
    """
    where = as_path(path, "to_jsonl: path")

    def log(numbers: dict[str, float]) -> None:
        with where.open("a") as file:
            file.write(json.dumps(numbers) + "\n")

    return log


def to_tensorboard(writer: Any) -> Log:
    """A log for a `torch.utils.tensorboard.SummaryWriter`: a scalar for each number."""

    def log(numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            if name != "step":
                writer.add_scalar(name, value, int(numbers["step"]))

    return log


def to_wandb(run: Any) -> Log:
    """A log for a run of Weights & Biases, as `wandb.init` returns it."""

    def log(numbers: dict[str, float]) -> None:
        run.log({name: value for name, value in numbers.items() if name != "step"})

    return log


def trainer_callback(
    monitor: CertifiedGap,
    names: str | Sequence[str] | None = None,
    *,
    select: Callable[[Any], Any] | None = None,
) -> "TrainerCallback":
    """A callback of transformers' `Trainer`: hooks while it trains, and `step` after each step.

    With `CertifiedGap(log=trainer.log)` the numbers go wherever the trainer logs. Batches of a step
    that accumulates gradients add up.

    Args:
        monitor: what is updated.
        names, select: as in `CertifiedGap.watch`.
    """
    from transformers import TrainerCallback

    class Watching(TrainerCallback):
        """Hooks from the first step of a training to its last."""

        hooks = ExitStack()

        def on_train_begin(self, *_: Any, model: Any = None, **__: Any) -> None:
            self.hooks.close()
            self.hooks.enter_context(monitor.watch(model, names, select=select))

        def on_step_end(self, *_: Any, **__: Any) -> None:
            monitor.step()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.hooks.close()

    return Watching()
