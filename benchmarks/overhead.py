"""What `solve` adds to HiGHS: `python -m benchmarks.overhead`.

Side by side in one run, alternating: highspy alone, from arrays that are ready to be passed to
its solution; and `lp_routing.solve`, from the score matrix to the certified solution. Same model,
same options. Reported: medians, their ratio, and the certificate's share.
"""

import resource
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import lp_routing as lpr
from benchmarks.scores import skewed_scores
from lp_routing.cli.options import versions
from lp_routing.solvers.highs import LP_DEFAULTS, highs_model, quiet_highs
from lp_routing.solvers.linear_program import linear_program

T, E, K, SEED, REPEATS = 4096, 64, 2, 0, 5


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def bare(model: object) -> None:
    """One highspy solve of a ready model."""
    highs = quiet_highs()
    for name, value in LP_DEFAULTS.items():
        highs.setOptionValue(name, value)
    highs.passModel(model)
    highs.run()
    highs.getSolution()


def row(name: str, problem: lpr.RoutingProblem) -> str:
    """Measure one problem."""
    model = highs_model(linear_program(problem))
    solution = lpr.solve(problem)  # also the warm-up
    proof, taken, prices = solution.certificate, solution.assignment, solution.prices
    if proof is None or taken is None:
        return f"{name}: {solution.status.name}: {solution.explanation}"
    alone, ours, certifying = [], [], []
    for _ in range(REPEATS):
        alone.append(seconds(partial(bare, model)))
        ours.append(seconds(partial(lpr.solve, problem)))
        certifying.append(seconds(partial(lpr.certify, problem, taken, prices)))
    return (
        f"{name}: highspy {median(alone):.2f} s, solve {median(ours):.2f} s, "
        f"ratio {median(ours) / median(alone):.3f}, certificate {median(certifying):.3f} s; "
        f"{solution.status.name}, relative gap {proof.relative_gap:.1e}"
    )


def main() -> None:
    """Print one row a problem, and the peak memory of the whole run."""
    print(f"T={T} E={E} K={K} seed={SEED}, medians of {REPEATS}, alternating")
    scores = skewed_scores(T, E, SEED)
    print(row("capacity", lpr.problems.capacity(scores, K, T * K // E)), flush=True)
    print(row("balanced", lpr.problems.balanced(scores, K)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this process: {peak:.0f} MiB")
    print(versions())


if __name__ == "__main__":
    main()
