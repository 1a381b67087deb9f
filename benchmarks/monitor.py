"""What watching costs a training step: `python -m benchmarks.monitor`.

The byte-level model of `benchmarks.byte_moe` trained from scratch on random bytes, and
`lpr.monitor.CertifiedGap` beside it, in one run. Processor time, so that a busy machine matters
less: the median step, the watch's time a step, and its share of all steps but the first, which
compiles and solves without prices.
"""

import time
from statistics import mean, median

import torch

import lp_routing as lpr
from benchmarks.byte_moe.model import ByteMoE, Config
from benchmarks.byte_moe.train import next_byte_loss
from lp_routing.cli.options import versions

WINDOWS, STEPS, SEED = 16, 60, 0
SETTINGS = ((1, 1), (50, 1), (50, 4))
"""Steps between solves, and between measurements; the last are the defaults."""


def main() -> None:
    """Print one row an interval."""
    config = Config()
    print(
        f"{WINDOWS * config.context} tokens a step, {config.layers} layers, {config.experts} "
        f"experts, k={config.chosen}; seed {SEED}; {versions()}"
    )
    for every, stride in SETTINGS:
        print(row(config, every, stride))


def row(config: Config, every: int, stride: int) -> str:
    """Train with a monitor and time both."""
    torch.manual_seed(SEED)
    model = ByteMoE(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    monitor = lpr.monitor.CertifiedGap(k=config.chosen, every=every, stride=stride)
    steps, watched, gaps = [], [], []
    for _ in range(STEPS):
        windows = torch.randint(config.vocabulary, (WINDOWS, config.context + 1))
        began = time.process_time()
        loss, routings = next_byte_loss(model, windows)
        torch.autograd.backward(loss)
        optimiser.step()
        optimiser.zero_grad()
        trained = time.process_time()
        for layer, routing in enumerate(routings):
            monitor.update(f"layer {layer}", routing.logits)
        found = monitor.step()
        watched.append(time.process_time() - trained)
        steps.append(trained - began)
        gaps += [value for name, value in found.items() if name.endswith("/gap")]
    return (
        f"solve every {every}, measure every {stride}: step {1000 * median(steps):.0f} ms, "
        f"watching {1000 * sum(watched[1:]) / (STEPS - 1):.1f} ms a step, "
        f"{sum(watched[1:]) / sum(steps[1:]):.1%}; mean gap {mean(gaps):.2%}"
    )


if __name__ == "__main__":
    main()
