"""What the constants of the claims trade: `python -m benchmarks.claim_constants [ID ...]`.

Each number in capitals of a claim's file at half and at twice its value, the others as they are;
with ids, only in the files of these claims. Claims are checked on the sample with k = 2. Printed
are the seconds that the check takes, processor time on one thread, and the evidence in words where
it changes.
"""

import sys
import time
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

import lp_routing as lpr
from benchmarks.router_constants import varied
from lp_routing.claims import CLAIMS, Claim, helpers
from lp_routing.claims.claim import check_all
from lp_routing.cli.options import versions

K = 2


def of_modules(ids: Sequence[str]) -> dict[ModuleType, list[Claim]]:
    """Files of claims -> those whose checks they hold; of all claims, or of some."""
    found: dict[ModuleType, list[Claim]] = {}
    for claim in CLAIMS:
        if not ids or claim.id in ids:
            found.setdefault(import_module(claim.examine.__module__), []).append(claim)
    return found


def constants(module: ModuleType) -> list[str]:
    """Names in capitals that stand for the module's own numbers."""
    return [
        name
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, int | float) and not hasattr(helpers, name)
    ]


def checked(claim: Claim, logits: Tensor) -> tuple[str, float]:
    """The evidence in words, and the seconds that the check takes."""
    began = time.process_time()
    (found,) = check_all([claim], logits, k=K)
    took = time.process_time() - began
    return f"{'as the verdict says' if found.comes_out else 'AGAINST'}: {found.says}", took


def main() -> None:
    """Print a line for each claim and value."""
    torch.set_num_threads(1)
    logits = lpr.traces.sample().router_logits.double()
    print(f"sample, k={K}, seed 0; {versions()}")
    for module, claims in of_modules(sys.argv[1:]).items():
        for claim in claims:
            checked(claim, logits)  # the first call also loads and compiles
            usual, took = checked(claim, logits)
            print(f"{claim.id}, as it is: {took:.2f} s, {usual}")
            for name in constants(module):
                for value in varied(module, name):
                    says, took = checked(claim, logits)
                    says = "the same" if says == usual else says
                    print(f"  {name} = {value:g}: {took:.2f} s, {says}", flush=True)


if __name__ == "__main__":
    main()
