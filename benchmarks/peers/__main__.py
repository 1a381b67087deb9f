"""Conformance with other projects' routers: `python -m benchmarks.peers [FILE]`.

Their functions and ours route the same logits; a line each says for how many tokens the sets of
experts agree. Below, what their code does that its options do not say, reproduced. Peers that are
not installed are left out with a line that says how to install them.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

import lp_routing as lpr
from benchmarks.peers.registry import Peer, conformance, differences
from benchmarks.peers.subjects import PEERS
from benchmarks.peers.table import conformance_table, finding_table
from lp_routing.cli.options import versions

FEWEST_EXPERTS = 4
"""Least number of experts: peers' group-limited rules are compared with 4 groups."""
NUDGE = 1e-4
"""Noise added to logits, in logits, to break ties: with a capacity one tie moves other tokens
too."""


def main(arguments: Sequence[str] | None = None, peers: Sequence[Peer] = PEERS) -> int:
    """Compare and report; 1 where a rule is not routed alike, 2 for bad input or no peer."""
    options = parsed(arguments)
    try:
        layers = logits_of(options.file, options.tokens, options.k)
    except lpr.InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    installed = [(peer, found) for peer in peers if (found := peer.version) is not None]
    rows = [row for peer, _ in installed for row in conformance(peer, layers, options.k)]
    findings = {peer.package: differences(peer) for peer, _ in installed}

    console = Console(width=None if sys.stdout.isatty() else 160)
    if rows:
        console.print(conformance_table(rows))
    for peer, found in installed:
        if findings[peer.package]:
            console.print(finding_table(peer.package, found, findings[peer.package]))
    for peer in peers:
        if peer.version is None:
            print(peer.absence)
    print(versions())
    if options.json is not None:
        content = {
            "rows": [asdict(row) for row in rows],
            "findings": {name: [asdict(f) for f in found] for name, found in findings.items()},
            "versions": versions() | {peer.package: found for peer, found in installed},
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if not installed:
        return 2
    return 0 if all(row.agrees for row in rows) else 1


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    add = parser.add_argument
    add("file", nargs="?", type=Path, help="router logits, as `lp-routing verify` reads them")
    add("--k", type=int, default=2, help="experts per token, where a function does not fix it")
    add("--tokens", type=int, default=1024, help="how many tokens of each layer, from the first")
    add("--json", type=Path, help="also write rows, findings and versions here")
    return parser.parse_args(arguments)


def logits_of(file: Path | None, tokens: int, k: int) -> list[Tensor]:
    """The first tokens of each layer, float32 (T, E), ties nudged apart; the sample's without FILE.

    Raises:
        InputError: a file that cannot be read, forbidden pairs, too few experts or tokens.
    """
    trace = lpr.traces.sample() if file is None else lpr.traces.read(file)
    layers = [trace.layer(index)[: max(tokens, 0)].float() for index in range(trace.layers)]
    T, E = layers[0].shape
    if not 1 <= k <= E or E < FEWEST_EXPERTS or T < E:
        raise lpr.InputError(
            f"{trace.source}: {T} tokens, {E} experts and k={k}; expected 1 <= k <= E, at least "
            f"{FEWEST_EXPERTS} experts and as many tokens as experts."
        )
    if not all(bool(layer.isfinite().all()) for layer in layers):
        raise lpr.InputError(
            f"{trace.source}: holds -inf; the functions compared here know no forbidden pairs."
        )
    noise = torch.Generator().manual_seed(0)
    return [layer + NUDGE * torch.randn(layer.shape, generator=noise) for layer in layers]


if __name__ == "__main__":
    sys.exit(main())
