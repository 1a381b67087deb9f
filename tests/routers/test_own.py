"""Routers of users: by file, by module, by entry point; what they are given, and how they fail."""

import json
import os
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import lp_routing as lpr
from lp_routing.cli.commands import main
from lp_routing.routers import own
from lp_routing.routers.catalogue import CATALOGUE, Shape, router, router_names

MINE = '''
import torch
import lp_routing as lpr

COUNT = 3
ready = lpr.routers.TopK(1)

def first(logits, k):
    """The first k experts, always."""
    taken = torch.zeros_like(logits, dtype=torch.bool)
    taken[:, :k] = True
    return taken

def dropping(logits, *, k, capacity):
    return lpr.routers.TopK(k, capacity)(logits)

dropping.seeks = "capacity"

def raises(logits):
    return {}["nothing here"]

class Built:
    seeks = "token_choice"

    def __init__(self, k):
        self.k = k

    def __call__(self, logits):
        return lpr.routers.TopK(self.k)(logits)
'''
SHAPE = Shape(k=2, capacity=3, T=5, E=4)
LOGITS = torch.tensor(
    [[4.0, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1], [1, 2, 3, 4]], dtype=torch.float64
)


@pytest.fixture(params=["file", "module"])
def mine(request, tmp_path, monkeypatch):
    """The name of a module of the user, before the colon."""
    name = f"routers_of_{request.param}_{os.getpid()}_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return f"{name}.py" if request.param == "file" else name


def amounts(answer):
    """Pairs taken (T, E)."""
    return (answer if isinstance(answer, torch.Tensor) else answer.x).int()


def test_a_function_is_given_logits_and_what_it_has_parameters_for(mine):
    taken = router(f"{mine}:first", SHAPE)(LOGITS)
    assert amounts(taken).tolist() == [[1, 1, 0, 0]] * 5
    dropping = router(f"{mine}:dropping", SHAPE)
    assert dropping.seeks == "capacity"
    # Four tokens want experts 0 and 1, which have three places each; ties go to the first tokens.
    assert amounts(dropping(LOGITS)).sum(0).tolist() == [3, 3, 1, 1]


def test_a_class_is_built_and_a_router_is_taken_as_it_is(mine):
    built = router(f"{mine}:Built", SHAPE)
    assert (built.k, built.seeks) == (2, "token_choice")
    assert amounts(built(LOGITS)).sum() == 10
    assert amounts(router(f"{mine}:ready", SHAPE)(LOGITS)).sum() == 5  # k = 1, whatever the shape


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("{}:fist", "has no 'fist'; did you mean 'first'"),
        ("{}:COUNT", "expected a function of logits, a router or its class, got int"),
        ("none.py:first", "router in none.py: there is no such file"),
        ("no_such_module:first", "there is no module 'no_such_module' here or installed"),
        ("os.no_such_part:first", "there is no module 'os.no_such_part'"),
        (":first", "'' is no module"),
    ],
)
def test_what_is_not_there_is_said(mine, name, says):
    with pytest.raises(lpr.InputError, match=says):
        router(name.format(mine), SHAPE)


def test_an_error_of_the_users_own_module_is_raised_as_it_is(tmp_path):
    (tmp_path / "bad.py").write_text("import a_module_that_is_missing\n")
    (tmp_path / "worse.py").write_text("1 / 0\n")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_missing"):
        router(f"{tmp_path / 'bad.py'}:x", SHAPE)
    with pytest.raises(ZeroDivisionError):
        router(f"{tmp_path / 'worse.py'}:x", SHAPE)


def test_compare_judges_it_by_name(mine):
    problem = lpr.problems.capacity(LOGITS, 2, 3)
    names = [f"{mine}:first", f"{mine}:dropping", f"{mine}:raises", "drop-by-score"]
    first, dropping, raises, known = lpr.evaluation.comparisons(
        problem, names, logits=LOGITS, repeats=1, shape=SHAPE
    )
    assert (first.status, first.breaks) == (
        "INFEASIBLE",
        "expert_0 counts 5, at most 3 (and 1 more)",
    )
    assert (dropping.value, dropping.seeks) == (known.value, "capacity")
    assert raises.status.startswith("KeyError")
    assert "return {}[" in raises.traceback  # the user's own line


@pytest.fixture
def file(tmp_path):
    np.savez(tmp_path / "logits.npz", router_logits=LOGITS[None].repeat(2, 1, 1).numpy())
    return str(tmp_path / "logits.npz")


def run(*words):
    result = CliRunner().invoke(main, [*words, "--k", "2"])
    assert result.exit_code == 0, result.output
    return result


def test_gap_judges_it_and_shows_its_traceback(mine, file):
    names = f"{mine}:dropping,{mine}:raises,drop-by-score"
    result = run("gap", file, "--routers", names, "--repeats", "1", "--json", "-")
    rows = json.loads(result.stdout)["rows"]
    assert [row["router"] for row in rows] == names.split(",") * 2
    assert rows[0]["gap"] == rows[2]["gap"]
    assert "traceback" not in rows[1]  # it names paths on this machine
    assert f"{mine}:raises raised:\nTraceback" in result.stderr
    assert result.stderr.count("KeyError: 'nothing here'\n") == 1
    assert f"{mine}:dropping raised" not in result.stderr


def test_other_commands_take_it_too(mine, file, tmp_path):
    name = f"{mine}:dropping"
    assert "causality" in run("audit", file, "--routers", name).stdout
    assert name in run("frontier", file, "--over", "capacity", "--routers", name).stdout


def test_processes_load_it_too(mine, file):
    name = f"{mine}:dropping"
    few = ("--routers", name, "--repeats", "1", "--json", "-")
    one, two = (run("gap", file, *few, "--jobs", jobs).stdout for jobs in ("1", "2"))
    gaps = [[row["gap"] for row in json.loads(text)["rows"]] for text in (one, two)]
    assert gaps[0] == gaps[1]


@pytest.fixture
def entry(mine, monkeypatch):
    """An installed package that registers a router."""

    def register(name):
        point = EntryPoint(name, f"{mine.removesuffix('.py')}:dropping", own.GROUP)
        sys.path.append(os.getcwd())
        monkeypatch.setattr(own, "entry_points", lambda group: [point][: group == own.GROUP])

    return register


def test_an_entry_point_is_a_name_like_those_of_the_catalogue(entry, file):
    entry("my-router")
    assert router_names() == [*CATALOGUE, "my-router"]
    assert router("my-router", SHAPE).seeks == "capacity"
    stdout = run("gap", file, "--repeats", "1", "--json", "-").stdout
    names = {row["router"] for row in json.loads(stdout)["rows"]}
    assert {"my-router", "optimum", "prices"} <= names  # it seeks the problem, so it is a default
    assert not names & {"token-choice", "hash"}
    with pytest.raises(lpr.InputError, match="did you mean 'my-router'"):
        router("my-routr", SHAPE)


def test_an_entry_point_may_not_take_a_name_of_the_catalogue(entry):
    entry("prices")
    with pytest.raises(lpr.InputError, match="registers a router 'prices'"):
        router_names()
