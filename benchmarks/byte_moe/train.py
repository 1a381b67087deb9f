"""Train the byte model: `python -m benchmarks.byte_moe.train` (one thread, fixed steps)."""

import json
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import Progress
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.byte_moe.corpus import load_corpus
from benchmarks.byte_moe.model import ByteMoE, Config, Routing

WEIGHTS = Path(__file__).with_name("weights.safetensors")
METRICS = Path(__file__).with_name("metrics.json")
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # odd quintic that drives singular values towards 1


@dataclass(frozen=True)
class Recipe:
    """How the model is trained; the rates are the peaks of their schedule."""

    seed: int = 2311
    steps: int = 640
    batch: int = 16
    warm_up: int = 30
    muon_rate: float = 0.02
    adam_rate: float = 0.004
    balance_weight: float = 0.005
    z_weight: float = 0.0003
    log_every: int = 40


def orthogonalise(matrices: Tensor) -> Tensor:
    """Bring every singular value of matrices [..., M, N] near 1 in five cheap iterations."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalised, for parameters [M, N] or stacks [E, M, N]."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Update every parameter from its gradient once; `closure` is never called."""
        for group in self.param_groups:
            for parameter in group["params"]:
                memory = self.state[parameter].setdefault("memory", torch.zeros_like(parameter))
                memory.lerp_(parameter.grad, 1 - group["momentum"])
                push = orthogonalise(parameter.grad.lerp(memory, group["momentum"]))
                rows, columns = parameter.shape[-2:]
                parameter.add_(push, alpha=-group["lr"] * max(1.0, columns / rows) ** 0.5)


def make_optimisers(model: ByteMoE, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Give Muon the matrices of attention and experts, AdamW the routers and the two ends."""
    named = dict(model.named_parameters())
    inner = {name for name in named if name.startswith("blocks") and "router" not in name}
    matrices = [parameter for name, parameter in named.items() if name in inner]
    others = [parameter for name, parameter in named.items() if name not in inner]
    adam = torch.optim.AdamW(others, lr=recipe.adam_rate, betas=(0.9, 0.95), weight_decay=0.01)
    return [Muon(matrices, lr=recipe.muon_rate), adam]


def rate_factor(step: int, recipe: Recipe) -> float:
    """Return the share of the peak rate at a step: linear warm-up, then half a cosine to 0."""
    if step < recipe.warm_up:
        return (step + 1) / recipe.warm_up
    done = (step - recipe.warm_up) / (recipe.steps - recipe.warm_up)
    return 0.5 + 0.5 * math.cos(math.pi * done)


def as_tensor(text: bytes) -> Tensor:
    """Turn text into a tensor [N] of byte values (uint8)."""
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def cut_windows(text: Tensor, starts: Tensor, length: int) -> Tensor:
    """Take the windows of `length` bytes at starts [B]: [B, length] int64."""
    return text[starts[:, None] + torch.arange(length)].long()


def batches(text: Tensor, recipe: Recipe, context: int) -> Iterator[Tensor]:
    """Yield `recipe.steps` batches [B, S + 1]; every pass over the text shuffles its windows."""
    made = 0
    while True:
        offset = int(torch.randint(context, ()))
        count = (len(text) - offset - 1) // context
        for chosen in torch.split(torch.randperm(count), recipe.batch):
            if made == recipe.steps:
                return
            made += 1
            yield cut_windows(text, offset + chosen * context, context + 1)


def next_byte_loss(model: ByteMoE, windows: Tensor) -> tuple[Tensor, list[Routing]]:
    """Return the mean loss in nats per byte on windows [B, S + 1], and the L routings."""
    logits, routings = model(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()), routings


@torch.no_grad()
def evaluate(model: ByteMoE, text: Tensor, context: int, one_in: int) -> float:
    """Return nats per byte over one in `one_in` of the context windows of `text`."""
    starts = torch.arange(0, (len(text) - 1) // context, one_in) * context
    total = 0.0
    for part in torch.split(starts, 16):
        loss, _ = next_byte_loss(model, cut_windows(text, part, context + 1))
        total += loss.item() * len(part)
    return total / len(starts)


def train(model: ByteMoE, text: Tensor, held_out: Tensor, recipe: Recipe) -> list[dict[str, float]]:
    """Run every step and return the log: mean train loss since the last entry, held-out loss."""
    context = model.config.context
    optimisers = make_optimisers(model, recipe)
    peaks = [optimiser.param_groups[0]["lr"] for optimiser in optimisers]
    log: list[dict[str, float]] = []
    losses: list[float] = []
    with Progress() as progress:
        bar = progress.add_task("training", total=recipe.steps)
        for step, windows in enumerate(batches(text, recipe, context)):
            loss, routings = next_byte_loss(model, windows)
            penalty = sum(
                recipe.balance_weight * r.balance + recipe.z_weight * r.z for r in routings
            )
            (loss + penalty).backward()  # type: ignore[no-untyped-call]
            for optimiser, peak in zip(optimisers, peaks, strict=True):
                optimiser.param_groups[0]["lr"] = peak * rate_factor(step, recipe)
                optimiser.step()
                optimiser.zero_grad()
            losses.append(loss.item())
            progress.advance(bar)
            if (step + 1) % recipe.log_every == 0:
                entry = {"step": step + 1, "train": sum(losses) / len(losses)}
                entry["held_out"] = evaluate(model, held_out, context, one_in=40)
                progress.console.print(entry)
                log.append(entry)
                losses.clear()
    return log


def save(model: ByteMoE) -> None:
    """Write the weights as float16 and widen the model's own to the same rounded values."""
    rounded = {name: value.half() for name, value in model.state_dict().items()}
    save_file(rounded, WEIGHTS)
    model.load_state_dict(rounded)


def main(recipe: Recipe | None = None) -> None:
    """Train, then write the weights and the metrics beside this file."""
    recipe, config, begun = recipe or Recipe(), Config(), time.perf_counter()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(recipe.seed)
    corpus = load_corpus()
    model, held_out = ByteMoE(config), as_tensor(corpus.held_out)
    log = train(model, as_tensor(corpus.train), held_out, recipe)
    metrics: dict[str, Any] = {"train": log[-1]["train"]}
    metrics["held_out_float32"] = evaluate(model, held_out, config.context, one_in=4)
    save(model)
    metrics["held_out_float16"] = evaluate(model, held_out, config.context, one_in=4)
    metrics |= {
        "seconds": round(time.perf_counter() - begun),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "corpus": corpus.describe(),
        "config": asdict(config),
        "recipe": asdict(recipe),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "log": log,
    }
    METRICS.write_text(json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    main()
