"""What dropping experts costs in loss: `python -m benchmarks.experts_dropped`.

The sample's model keeps 24, 16 and 8 of 32 experts in every layer, chosen by rules of papers and by
facility location on one set of tokens of the training text, and predicts other, held-out text. The
loss is paired window by window with the whole model's and with SEER's, so that intervals are those
of differences. Beside it what a choice keeps of the softmax score, and how far that is at most from
the best choice there is. Rows go to a CSV file; at the end a table.
"""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.byte_moe.corpus import load_corpus
from benchmarks.byte_moe.model import Block, ByteMoE, normalise
from benchmarks.byte_moe.sample import load_model
from benchmarks.byte_moe.train import as_tensor, cut_windows
from benchmarks.side_by_side.rows import machine_in_words, versions_in_words
from lp_routing.extensions.expert_pruning import (
    best_kept,
    bound_on_kept,
    greedy,
    heavy_hitters,
    kept_value,
)
from lp_routing.routers.selection import largest

HERE = Path(__file__).parent
KEPT = (24, 16, 8)
SEER = "hard count (SEER)"
SEARCHED = 512
"""Evenly spaced tokens that HiGHS is given: with all of them it does not end within the limit."""


@dataclass(frozen=True, eq=False)
class Layer:
    """What a layer of the whole model did on the tokens that choose.

    Attributes:
        probabilities: softmax over experts, (T, E).
        weights: combine weights, 0 where an expert is not chosen, (T, E).
        norms: |E_j(h_i)| of all experts, (T, E).
        change: max(1 - cos(x_i, x_i + y_i), 0) of the residual stream, (T,).
        router_norms, stable_ranks: of each expert's router column and first matrix, (E,).
    """

    probabilities: Tensor
    weights: Tensor
    norms: Tensor
    change: Tensor
    router_norms: Tensor
    stable_ranks: Tensor


@dataclass(frozen=True)
class Row:
    """One line of the file.

    Attributes:
        rule, keep: how experts were chosen, and how many of 32 a layer keeps.
        loss: nats per byte on the held-out windows.
        more, more_ci: above the whole model's, and half the 95 % interval of it, paired by window.
        against_seer, against_seer_ci: the same above SEER's hard count.
        kept_percent: of the softmax score with all experts, all layers.
        gap_percent: by how much of it at most the choice is below the best.
        windows: of 256 bytes.
    """

    rule: str
    keep: int
    loss: float
    more: float
    more_ci: float
    against_seer: float
    against_seer_ci: float
    kept_percent: float
    gap_percent: float
    windows: int
    versions: str
    machine: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; 1 where a choice keeps more than is proved possible."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experts_dropped")
    add = parser.add_argument
    add("--windows", type=int, default=256, help="held-out windows of 256 bytes (256)")
    add("--calibration", type=int, default=16, help="windows of the training text (16)")
    add("--limit", type=float, default=10.0, help="seconds for HiGHS, each layer (10)")
    add("--keep", type=int, nargs="*", default=KEPT, help="experts kept (24 16 8)")
    add("--out", type=Path, default=HERE / "experts_dropped.csv", help="CSV file")
    options = parser.parse_args(arguments)
    if min(options.windows, options.calibration) < 2:
        parser.error("--windows and --calibration: expected at least 2")
    model, corpus = load_model(), load_corpus()
    chosen_on = windows_of(as_tensor(corpus.train), options.calibration, model.config.context)
    judged_on = windows_of(as_tensor(corpus.held_out), options.windows, model.config.context)
    layers = observed(model, chosen_on)
    rows = []
    for row in measured(model, layers, judged_on, options.keep, options.limit):
        rows.append(row)
        write(options.out, rows)
    Console(width=None if sys.stdout.isatty() else 140).print(table(rows))
    wrong = [row for row in rows if row.gap_percent < -1e-6]
    print(*(f"{row.rule}, keep {row.keep}: beats the bound." for row in wrong), sep="\n")
    return 1 if wrong else 0


def windows_of(text: Tensor, count: int, context: int) -> Tensor:
    """`count` evenly spaced windows of a text (N,), with the byte that follows; (count, S + 1)."""
    starts = torch.linspace(0, len(text) - context - 1, count).long()
    return cut_windows(text, starts, context + 1)


@torch.no_grad()
def observed(model: ByteMoE, windows: Tensor) -> list[Layer]:
    """What each layer of the whole model did on these windows."""
    found, x = [], normalise(model.embed(windows[:, :-1]))
    for block in model.blocks:
        assert isinstance(block, Block)
        before = x + block.attention(normalise(x))
        h = normalise(before).flatten(0, 1)
        moe = block.moe
        probabilities = (h @ moe.router).softmax(-1).double()
        top = torch.where(largest(probabilities, moe.chosen), probabilities, 0.0)
        hidden = torch.einsum("td,edh->eth", h, moe.up).relu().square()
        norms = torch.linalg.vector_norm(hidden @ moe.down, dim=-1).mT.double()
        x = before + moe(h)[0].view_as(before)
        cosine = F.cosine_similarity(before.flatten(0, 1), x.flatten(0, 1))
        squares = moe.up.square().sum((1, 2))
        found.append(
            Layer(
                probabilities,
                top / top.sum(-1, keepdim=True),
                norms,
                (1 - cosine).clamp(min=0).double(),
                torch.linalg.vector_norm(moe.router, dim=0).double(),
                (squares / torch.linalg.matrix_norm(moe.up, 2).square()).double(),
            )
        )
    return found


def choices(layer: Layer, keep: int, k: int, limit_s: float) -> dict[str, Tensor]:
    """The experts that each rule keeps, boolean (E,)."""
    p, w = layer.probabilities, layer.weights
    strength = layer.norms * layer.change[:, None]
    routed = (w > 0).double()
    mean_norm = (routed * layer.norms).sum(0) / routed.sum(0).clamp(min=1)
    some = p[:: max(len(p) // SEARCHED, 1)]
    return {
        SEER: heavy_hitters(p, keep, k).x,
        "soft count (SEER)": heavy_hitters(p, keep, k, by="score").x,
        "gate mass": heavy_hitters(w, keep, k, by="score").x,
        "EASY-EP": heavy_hitters(w * strength, keep, k, by="score").x,
        "mean norm (MAN)": largest(mean_norm, keep),
        "router norm (MC-Suite)": largest(layer.router_norms, keep),
        "stable rank (MC-Suite)": largest(layer.stable_ranks, keep),
        "greedy facility location": greedy(p, keep, k).x,
        "greedy on EASY-EP's scores": greedy(p * strength, keep, k).x,
        f"best on {len(some)} tokens (HiGHS)": best_kept(some, keep, k, time_limit_s=limit_s).x,
    }


def measured(
    model: ByteMoE, layers: list[Layer], windows: Tensor, keeps: Sequence[int], limit_s: float
) -> Iterator[Row]:
    """The rows, one rule after the other."""
    k = model.config.chosen
    everything = sum(float(layer.probabilities.topk(k).values.sum()) for layer in layers)
    whole = losses(model, windows)
    for keep in keeps:
        found = [choices(layer, keep, k, limit_s) for layer in layers]
        bound = sum(bound_on_kept(layer.probabilities, keep, k) for layer in layers)
        seer = whole
        for rule in found[0]:
            kept = [layer[rule] for layer in found]
            loss = losses(model, windows, kept)
            seer = loss if rule == SEER else seer
            pairs = zip(layers, kept, strict=True)
            value = sum(kept_value(layer.probabilities, x, k) for layer, x in pairs)
            yield Row(
                rule,
                keep,
                float(loss.mean()),
                *interval(loss - whole),
                *interval(loss - seer),
                100 * value / everything,
                100 * (bound - value) / everything,
                len(windows),
                versions_in_words(),
                machine_in_words(),
            )


def interval(differences: Tensor) -> tuple[float, float]:
    """The mean of differences (W,), and half of its 95 % interval."""
    deviation = float(differences.std()) / len(differences) ** 0.5
    return float(differences.mean()), 1.96 * deviation


@torch.no_grad()
def losses(model: ByteMoE, windows: Tensor, kept: Sequence[Tensor] | None = None) -> Tensor:
    """Nats per byte of each window (W, S + 1), with the kept experts (E,) of each layer; (W,)."""
    for layer, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        block.moe.kept = None if kept is None else kept[layer]
    found = []
    for part in torch.split(windows, 16):
        logits, _ = model(part[:, :-1])
        each = F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="none")
        found.append(each.view(len(part), -1).mean(1))
    return torch.cat(found).double()


def write(path: Path, rows: Sequence[Row]) -> None:
    """The file anew, so that a run that stops leaves what it has."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def table(rows: Sequence[Row]) -> Table:
    """Loss above the whole model's and above SEER's, with intervals, and the certified gap."""
    shown = Table(title="Loss in nats per byte, with 95 % intervals of the paired differences")
    for name in ("keep", "rule", "above all experts", "above SEER", "score kept", "gap at most"):
        shown.add_column(name, justify="left" if name == "rule" else "right")
    for row in rows:
        shown.add_row(
            str(row.keep),
            row.rule,
            f"{row.more:+.3f} ± {row.more_ci:.3f}",
            f"{row.against_seer:+.3f} ± {row.against_seer_ci:.3f}",
            f"{row.kept_percent:.2f} %",
            f"{row.gap_percent:.2f} %",
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
