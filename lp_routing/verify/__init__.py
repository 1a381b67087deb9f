"""The main job: every named problem's optimum, proved, and how far each quick rule is from it."""

from lp_routing.verify.examination import examine, examine_all
from lp_routing.verify.problems import Case, Rule, cases
from lp_routing.verify.rows import Finding, Outcome, Row, chain, refuted, rows_as_json

__all__ = [
    "Case",
    "Finding",
    "Outcome",
    "Row",
    "Rule",
    "cases",
    "chain",
    "examine",
    "examine_all",
    "refuted",
    "rows_as_json",
]
