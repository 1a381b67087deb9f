"""Write the sample of router logits: `python -m benchmarks.byte_moe.sample`."""

import json
import math
import re
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.byte_moe.corpus import load_corpus
from benchmarks.byte_moe.model import ByteMoE, Config
from benchmarks.byte_moe.train import METRICS, WEIGHTS, as_tensor, cut_windows

TRACES = Path(__file__).parents[2] / "lp_routing" / "traces"
SAMPLE = TRACES / "sample.npz"
CARDS = (Path(__file__).with_name("README.md"), TRACES / "sample.md")
TABLE = re.compile(r"(<!-- loads -->\n).*?(<!-- end of loads -->)", re.DOTALL)
WINDOWS = 16  # of `Config.context` bytes each: 4096 tokens
HEADER = (
    "| layer | max / mean load | min / mean load | coefficient of variation | entropy of loads "
    "| entropy of a token | median margin |\n|---|---|---|---|---|---|---|\n"
)


def load_model() -> ByteMoE:
    """Build the model with its float16 weights widened to float32."""
    model = ByteMoE(Config())
    model.load_state_dict(load_file(WEIGHTS))
    return model


@torch.no_grad()
def route(model: ByteMoE, text: Tensor) -> Tensor:
    """Run consecutive windows from the middle of text [N]: router logits [L, T, E]."""
    context = model.config.context
    middle = len(text) // context // 2
    starts = (middle + torch.arange(WINDOWS)) * context
    _, routings = model(cut_windows(text, starts, context))
    return torch.stack([routing.logits for routing in routings])


def describe_loads(logits: Tensor, chosen: int) -> str:
    """Return one table row of a layer's load statistics at top-`chosen`; logits [T, E]."""
    experts = logits.shape[-1]
    loads = torch.bincount(logits.topk(chosen).indices.flatten(), minlength=experts).double()
    loads /= loads.mean()
    shares = loads / experts
    entropy = -torch.special.xlogy(shares, shares).sum() / math.log(experts)
    probabilities = logits.double().softmax(dim=-1)
    own = -torch.special.xlogy(probabilities, probabilities).sum(dim=-1).mean() / math.log(experts)
    ranked = logits.sort(descending=True).values
    margin = (ranked[:, chosen - 1] - ranked[:, chosen]).median()
    spread = loads.std(correction=0)
    numbers = (loads.max(), loads.min(), spread, entropy, own, margin)
    return " | ".join(f"{number.item():.3f}" for number in numbers)


def main() -> None:
    """Write the sample and put its load statistics into both cards."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    corpus, recorded = load_corpus(), json.loads(METRICS.read_text())["corpus"]["sha256"]
    if corpus.sha256 != recorded:
        raise SystemExit("This CPython's library is not the text the model was trained on.")
    model = load_model()
    logits = route(model, as_tensor(corpus.held_out)).half()
    if not logits.isfinite().all():
        raise SystemExit("A router logit does not fit in float16.")
    context, chosen = model.config.context, model.config.chosen
    sequence = np.repeat(np.arange(WINDOWS, dtype=np.int16), context)
    np.savez(SAMPLE, router_logits=logits.numpy(), sequence=sequence)
    rows = enumerate(describe_loads(layer, chosen) for layer in logits.float())
    table = HEADER + "".join(f"| {layer} | {row} |\n" for layer, row in rows)
    for card in CARDS:
        card.write_text(TABLE.sub(lambda found: found[1] + table + found[2], card.read_text()))
    Console().print(table, markup=False)


if __name__ == "__main__":
    main()
