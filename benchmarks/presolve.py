"""Why presolve is off: `python -m benchmarks.presolve` (some minutes).

HiGHS with and without presolve on balanced and capacity problems of growing size, side by side.
"""

import lp_routing as lpr
from benchmarks.scores import skewed_scores
from lp_routing.cli.options import versions

E, K, SEED = 32, 2, 0


def main() -> None:
    """Print one row for each size and problem."""
    print(f"E={E} K={K} seed={SEED}, one run each; seconds of solve, certificate included")
    for T in (256, 512, 1024):
        scores = skewed_scores(T, E, SEED)
        for name, problem in {
            "balanced": lpr.problems.balanced(scores, K),
            "capacity": lpr.problems.capacity(scores, K, T * K // E),
        }.items():
            off, on = lpr.solve(problem), lpr.solve(problem, lpr.HiGHS(presolve="on"))
            print(
                f"T={T:5d} {name}: off {off.seconds:7.2f} s ({off.status.name}), "
                f"on {on.seconds:7.2f} s ({on.status.name}), on/off {on.seconds / off.seconds:.0f}",
                flush=True,
            )
    print(versions())


if __name__ == "__main__":
    main()
