"""The list of faults: each can still be planted, and the script tells what was caught."""

import ast

import pytest

from tests.plant_faults import (
    ROOT,
    Fault,
    all_faults,
    cannot_be_planted,
    examine,
    run_tests,
    with_fault,
)

FAULTS = all_faults()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_every_fault_is_found_once_and_is_still_python(fault):
    ast.parse(with_fault(fault))
    assert fault.tests
    for test in fault.tests:
        assert (ROOT / test.partition("::")[0]).is_file()


def test_every_fault_has_its_own_description():
    assert len({fault.what for fault in FAULTS}) == len(FAULTS)


@pytest.mark.parametrize(
    ("old", "new", "found"), [("a = 2", "a = 3", 0), ("a", "b", 2), ("a = 1", "a = 1", 1)]
)
def test_a_fault_that_cannot_be_planted_is_refused(tmp_path, old, new, found):
    (tmp_path / "one.py").write_text("a = 1\nb = a\n")
    fault = Fault("an example", "one.py", old, new, ("tests/test_one.py",))
    with pytest.raises(ValueError, match=rf"found it {found} time\(s\)"):
        with_fault(fault, tmp_path)
    outcome = cannot_be_planted(fault, tmp_path)
    assert outcome is not None
    assert outcome.verdict == "not found"
    assert cannot_be_planted(fault._replace(old="a = 1", new="a = 2"), tmp_path) is None
    gone = cannot_be_planted(fault._replace(file="two.py"), tmp_path)
    assert gone is not None
    assert "two.py" in gone.by


@pytest.mark.parametrize(
    ("body", "verdict", "by"),
    [
        ("assert 1 == 1", "missed", ""),
        ("assert 1 == 2", "caught", "test_one.py::test_sum"),
        ("while True: pass", "too slow", "more than 5 s"),
        ("pass\nraise ValueError", "caught", "test_one.py"),
        ("pass\nimport sys; sys.exit(3)", "no verdict", "3"),
    ],
)
def test_the_verdict_is_that_of_the_tests(tmp_path, body, verdict, by):
    (tmp_path / "test_one.py").write_text(f"def test_sum():\n    {body}\n")
    limit = 5 if verdict == "too slow" else 60
    said, what = run_tests(["test_one.py"], tmp_path, {}, limit)
    assert said == verdict
    assert by in what


@pytest.mark.parametrize(
    ("test", "verdict"),
    [("assert twice(2) == 4", "caught"), ("assert twice(2) == 5", "no verdict"),
     ("assert twice(0) == 0", "missed")],
)  # fmt: skip
def test_a_test_that_fails_without_the_fault_too_catches_nothing(tmp_path, test, verdict):
    (tmp_path / "lp_routing").mkdir()
    (tmp_path / "lp_routing" / "errors.py").write_text("def twice(a):\n    return 2 * a\n")
    (tmp_path / "test_one.py").write_text(
        f"from lp_routing.errors import twice\n\n\ndef test_sum():\n    {test}\n"
    )
    fault = Fault("an example", "lp_routing/errors.py", "2 * a", "3 * a", ("test_one.py",))
    outcome = examine(fault, tmp_path, 60, whole_suite=False)
    assert outcome.verdict == verdict
    assert "2 * a" in (tmp_path / "lp_routing" / "errors.py").read_text()
