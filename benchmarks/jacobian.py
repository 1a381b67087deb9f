"""Ranks and angles of the unified score's Jacobian in a trained model (claim B7).

`python -m benchmarks.jacobian` takes the hidden states that reach the routers of `byte_moe` on its
held-out text, and the routers' own weights; the second router matrix is that of the next layer.
"""

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.byte_moe.corpus import load_corpus
from benchmarks.byte_moe.model import MixtureOfExperts
from benchmarks.byte_moe.sample import load_model, route
from benchmarks.byte_moe.train import as_tensor
from lp_routing.claims.usmoe.jacobian import Layer, Routing, measured

TOKENS = 32
"""Jacobians a layer, evenly spaced over the sample's tokens."""


def routings() -> list[Routing]:
    """Hidden states (TOKENS, D) and router weights (E, D) of each layer, float64."""
    model, seen = load_model(), list[Tensor]()
    mixtures = [part for part in model.modules() if isinstance(part, MixtureOfExperts)]
    hooks = [
        mixture.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        for mixture in mixtures
    ]
    route(model, as_tensor(load_corpus().held_out))
    for hook in hooks:
        hook.remove()
    some = torch.linspace(0, len(seen[0]) - 1, TOKENS).long()
    return [
        Routing(hidden[some].double(), mixture.router.detach().mT.double())
        for hidden, mixture in zip(seen, mixtures, strict=True)
    ]


def numbers(layer: Layer) -> dict[str, str]:
    """What a layer shows: the largest rank at a token, and angles to the span, in degrees."""
    two = torch.tensor(layer.two_angles)
    return {
        "softmax: rank at a token": str(layer.softmax_token),
        "unified: rank at a token": str(layer.unified_token),
        "unified: rank over tokens": str(layer.unified_all),
        "unified: largest angle": f"{max(layer.angles):.1g}",
        "unified: outside the span": f"{layer.outside:.1g}",
        "two routers: rank at a token": str(layer.two_token),
        "two routers: rank over tokens": str(layer.two_all),
        "two routers: median angle": f"{float(two.median()):.1f}",
        "two routers: largest angle": f"{float(two.max()):.1f}",
    }


def main() -> None:
    """Print the table."""
    of_layers = routings()
    E, D = of_layers[0].embeddings.shape
    others = [routing.embeddings for routing in (*of_layers[1:], of_layers[0])]
    found = [numbers(measured(*pair)) for pair in zip(of_layers, others, strict=True)]
    table = Table(
        "",
        *(f"layer {layer}" for layer in range(len(found))),
        title=f"E={E} experts, D={D}, {TOKENS} tokens a layer; angles in degrees",
    )
    for name in found[0]:
        table.add_row(name, *(layer[name] for layer in found))
    Console().print(table)


if __name__ == "__main__":
    main()
