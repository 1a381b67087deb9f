"""Loss against the mean number of experts: `python -m benchmarks.budget_loss`.

USMoE's flexible budget, N = round(k T) for fractions k, in the sample's model without training:
token choice at whole k, and the best pairs of each window of 256 bytes by several scores. Weights
are those of the kept experts, divided by their sum, as the model was trained. Losses are paired
with the model's own by window. Rows go to a CSV file; at the end a table.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.byte_moe.corpus import load_corpus
from benchmarks.byte_moe.model import Block, ByteMoE, MixtureOfExperts, normalise
from benchmarks.byte_moe.sample import load_model
from benchmarks.byte_moe.train import as_tensor
from benchmarks.experts_dropped import interval, windows_of
from benchmarks.side_by_side.rows import machine_in_words, versions_in_words
from lp_routing.routers import Router, TopK, Unified

HERE = Path(__file__).parent
BUDGETS = (1.0, 1.25, 1.5, 1.75, 2.0)


@dataclass(frozen=True)
class Row:
    """One line of the file.

    Attributes:
        router: the rule, and its score.
        k: mean experts per token.
        loss: nats per byte.
        more, more_ci: above the model's own top-2, and half the 95 % interval, paired by window.
        without_percent: of tokens that have no expert, all layers.
        windows: of 256 bytes.
    """

    router: str
    k: float
    loss: float
    more: float
    more_ci: float
    without_percent: float
    windows: int
    versions: str
    machine: str


def routers() -> list[tuple[str, float, Router]]:
    """All that are measured: a name, the mean number of experts, and the rule."""
    found: list[tuple[str, float, Router]] = [
        ("token choice", k, TopK(int(k), normalise="kept")) for k in (2.0, 1.0)
    ]
    for k in BUDGETS:
        found += [
            ("pool, softmax", k, Unified(k, rate=0.0, normalise="kept")),
            ("pool, softmax, all served", k, Unified(k, 0.0, serve_all=True, normalise="kept")),
            ("pool, USMoE", k, Unified(k, normalise="kept")),
            ("pool, USMoE v1", k, Unified(k, version="v1", normalise="kept")),
            ("pool, v1 normalised", k, Unified(k, version="v1-normalised", normalise="kept")),
        ]
    return found


@torch.no_grad()
def losses(model: ByteMoE, windows: Tensor, router: Router) -> tuple[Tensor, float]:
    """Nats per byte of each window (W, S + 1), (W,), and the share of tokens without an expert."""
    found, without, tokens = [], 0, 0
    for part in torch.split(windows, 16):
        x = normalise(model.embed(part[:, :-1]))
        for block in model.blocks:
            assert isinstance(block, Block)
            x = x + block.attention(normalise(x))
            h, moe = normalise(x), block.moe
            routed = router(h @ moe.router)
            assert routed.weights is not None
            without += int((~routed.x.any(-1)).sum())
            tokens += routed.x[..., 0].numel()
            x = x + mixed(h.flatten(0, 1), routed.weights.flatten(0, 1), moe).view_as(x)
        logits = normalise(x) @ model.head
        each = F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="none")
        found.append(each.view(len(part), -1).mean(1))
    return torch.cat(found).double(), without / tokens


def mixed(h: Tensor, weights: Tensor, moe: MixtureOfExperts) -> Tensor:
    """The experts' outputs on tokens h (T, D), weighted by (T, E), an expert at a time."""
    total = torch.zeros_like(h)
    for j, (up, down) in enumerate(zip(moe.up, moe.down, strict=True)):
        at = weights[:, j].nonzero()[:, 0]
        out = (h[at] @ up).relu().square() @ down
        total.index_add_(0, at, out * weights[at, j, None].to(h))
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget_loss")
    add = parser.add_argument
    add("--windows", type=int, default=96, help="held-out windows of 256 bytes (96)")
    add("--out", type=Path, default=HERE / "budget_loss.csv", help="CSV file")
    options = parser.parse_args(arguments)
    if options.windows < 2:
        parser.error(f"--windows {options.windows}: expected at least 2")
    model = load_model()
    windows = windows_of(as_tensor(load_corpus().held_out), options.windows, model.config.context)
    rows: list[Row] = []
    own = torch.zeros(len(windows))
    for name, k, router in routers():
        loss, without = losses(model, windows, router)
        own = own if rows else loss
        more = interval(loss - own)
        said = (versions_in_words(), machine_in_words())
        rows.append(Row(name, k, float(loss.mean()), *more, 100 * without, len(windows), *said))
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
    Console(width=None if sys.stdout.isatty() else 100).print(table(rows))
    return 0


def table(rows: Sequence[Row]) -> Table:
    """Loss above top-2, with its interval, by router and budget."""
    shown = Table(title="Loss in nats per byte above the model's top-2, 95 % intervals")
    for name in ("router", "k", "above top-2", "tokens without expert"):
        shown.add_column(name, justify="left" if name == "router" else "right")
    for row in sorted(rows, key=lambda row: (row.router, row.k)):
        more = f"{row.more:+.3f} ± {row.more_ci:.3f}"
        shown.add_row(row.router, f"{row.k:g}", more, f"{row.without_percent:.1f} %")
    return shown


if __name__ == "__main__":
    sys.exit(main())
