"""The README's Python runs and its example rows are what the command prints."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lp_routing as lpr
from lp_routing.evaluation.verify import cases, prove

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_python_example_runs_as_it_stands():
    first, at_scale = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    exec(first, names)
    assert names["solution"].status is lpr.Status.OPTIMAL
    assert 0.05 < names["certificate"].relative_gap < 0.06
    assert names["certificate"].violations == ()
    by_highs = lpr.solve(names["problem"], "highs").value
    exec(at_scale, names)
    for name in ("solution", "following"):
        assert names[name].status is lpr.Status.OPTIMAL
        assert float(names[name].value) == pytest.approx(float(by_highs), rel=1e-12)


def types_of(code: str, folder: Path) -> str:
    """What `mypy --strict` says of a user's file."""
    file = folder / "by_a_user.py"
    file.write_text(code)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(file)]
    root = Path(__file__).parents[1]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert not run.stderr
    return run.stdout


def test_the_python_examples_pass_strict_type_checks(tmp_path):
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    assert types_of(code, tmp_path) == ""
    wrong = code.replace("lpr.at_most(80)", '"80"')
    assert 'Argument "experts" to "RoutingProblem" has incompatible type "str"' in types_of(
        wrong, tmp_path
    )


def test_the_rows_in_the_readme_are_those_of_the_default_run():
    scores = lpr.scores.softmax(lpr.traces.sample().layer(0))
    (case,) = [case for case in cases(0, scores, 2, 1.25) if case.name == "capacity"]
    rows = prove(case)
    assert len(rows) == 4
    for row in rows:
        stated = next(line for line in README.splitlines() if line.startswith(f"    {row.method} "))
        words = stated.removeprefix(f"    {row.method}").split()
        assert float(words[0]) == round(row.result.value, 3)
        assert [int(words[-2]), int(words[-1])] == [row.result.dropped, round(row.max_load)]
        if row.kind == "router":
            assert float(words[1]) == round(100 * row.result.relative_gap, 2)


def test_every_command_and_file_the_readme_names_exists():
    root = Path(__file__).parents[1]
    for module in re.findall(r"python -m (benchmarks[\w.]+)", README):
        path = root / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for path in re.findall(r"`((?:benchmarks|lp_routing)/[\w/.]+)`", README):
        assert (root / path).exists(), path
