"""Faults that the suite should notice: mistakes that a reviewer would look for, as data.

`tests/plant_faults.py` plants them. `old` stands exactly once in the file.
"""

from typing import NamedTuple


class Fault(NamedTuple):
    """What is wrong; the file; its text; the text with the fault; tests that should notice."""

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


FAULTS = (
    # Faults that the suite did not notice once.
    Fault(
        "optimal: relative gap without its absolute value",
        "lp_routing/certificate/certificate.py",
        "and abs(self.relative_gap) <= tolerance",
        "and self.relative_gap <= tolerance",
        ("tests/test_certificate.py", "tests/test_solvers.py"),
    ),
    Fault(
        "violations: multiplicity not cut to the chunk",
        "lp_routing/certificate/violations.py",
        "problem.multiplicity[rows][pairs[:, 0]]",
        "problem.multiplicity[pairs[:, 0]]",
        ("tests/test_certificate.py", "tests/test_streaming.py"),
    ),
    Fault(
        "quantile balancing: most is fewest",
        "lp_routing/routers/dual_updates.py",
        "most = fewest + uneven.long()",
        "most = fewest",
        ("tests/test_quantile_balancing.py",),
    ),
    Fault(
        "range of sums: without the number of pairs",
        "lp_routing/problem/problem.py",
        "if self.score_scale * pairs > LARGEST_SUM:",
        "if self.score_scale > LARGEST_SUM:",
        ("tests/test_bad_input.py", "tests/test_hard_bounds.py", "tests/test_scores.py"),
    ),
    Fault(
        "shape of a problem: smallest capacity for the largest",
        "lp_routing/evaluation/evaluate.py",
        "int(min(float(experts.upper.max()), T))",
        "int(min(float(experts.upper.min()), T))",
        ("tests/test_compare.py",),
    ),
    Fault(
        "evaluator: small gaps are never evaluated exactly",
        "lp_routing/evaluation/evaluate.py",
        "if abs(certificate.relative_gap) <= ROUNDING:",
        "if False:",
        ("tests/test_compare.py",),
    ),
)
