"""What all commands share: options with the same defaults, "-" for stdout, the last line."""

import csv
import io
import json

import click
import numpy as np
import pytest
from click.testing import CliRunner

from lp_routing.cli.commands import SHARED, main
from tests.commands import with_k

ANSWERING = ["verify", "gap", "audit", "claims", "decide", "frontier", "report", "choices", "place"]
WITHOUT = {
    "verify": {"plot", "width"},
    "audit": {"score", "plot", "width"},  # asks who is taken, not what a pair is worth
    "claims": {"score", "capacity_factor", "plot", "width"},  # a claim states its own
    "decide": {"capacity_factor", "plot", "width"},  # compares factors
    "report": {"jobs", "json", "csv", "plot", "width"},  # a page with figures
    "choices": {"k", "capacity_factor", "tokens", "jobs", "plot", "width"},  # there are no logits
    "place": {"score", "capacity_factor", "jobs", "plot", "width"},  # experts, not tokens
}
"""Command -> the shared options that it has no use for."""
QUICK = {
    "verify": (),
    "gap": ("--routers", "token-choice", "--repeats", 1),
    "audit": ("--routers", "token-choice"),
    "claims": ("--only", "B1"),
    "decide": ("--factors", "1,2"),
    "frontier": ("--routers", "none"),
}


def facts(option: click.Option) -> tuple[object, ...]:
    """What a user sees of an option."""
    return option.name, tuple(option.opts), option.default, type(option.type), option.help


def shared(command: click.Command) -> dict[str, tuple[object, ...]]:
    """The shared options of a command, by name."""

    def nothing() -> None:
        pass

    for add in SHARED.values():
        nothing = add(nothing)
    known = {option.name.removesuffix("_path") for option in nothing.__click_params__}
    options = [one for one in command.params if isinstance(one, click.Option)]
    found = {one.name.removesuffix("_path"): facts(one) for one in options}
    return {name: found[name] for name in known if name in found}


def test_every_command_that_reads_a_file_is_in_the_table():
    reading = {
        name for name, one in main.commands.items() if any(p.name == "file" for p in one.params)
    }
    assert reading == set(ANSWERING)


@pytest.mark.parametrize("name", ANSWERING)
def test_the_options_are_the_same_with_the_same_defaults(name):
    every = shared(main.commands["gap"])
    assert len(every) == len(SHARED)
    own = shared(main.commands[name])
    if name == "choices":
        del own["capacity_factor"]  # its own: recorded choices do not say one
    assert own == {key: every[key] for key in set(every) - WITHOUT.get(name, set())}


@pytest.fixture
def file(tmp_path):
    logits = np.random.default_rng(0).normal(size=(2, 12, 4)).astype(np.float32)
    np.savez(tmp_path / "logits.npz", router_logits=logits)
    return tmp_path / "logits.npz"


def run(*arguments):
    result = CliRunner().invoke(main, with_k(arguments))
    assert result.exit_code in (0, 1), result.output
    return result


@pytest.mark.parametrize("name", QUICK)
def test_json_on_standard_output_is_alone_there(name, file):
    result = run(name, file, *QUICK[name], "--json", "-")
    assert json.loads(result.stdout)["source"] == str(file)
    assert "2 layer(s)" in " ".join(result.stderr.split())  # what is printed else


@pytest.mark.parametrize("name", QUICK)
def test_csv_on_standard_output_is_alone_there(name, file):
    lines = list(csv.reader(io.StringIO(run(name, file, *QUICK[name], "--csv", "-").stdout)))
    assert len(lines) > 1
    assert {len(line) for line in lines} == {len(lines[0])}


@pytest.mark.parametrize("name", ["gap", "frontier"])
def test_a_figure_on_standard_output_is_an_svg(name, file):
    result = run(name, file, "--layers", 0, *QUICK[name][:2], "--plot", "-")
    assert result.stdout.startswith("<?xml")
    assert result.stdout.rstrip().endswith("</svg>")


def test_only_one_result_goes_to_standard_output(file):
    result = CliRunner().invoke(main, with_k(["gap", file, "--json", "-", "--csv", "-"]))
    assert result.exit_code == 2
    assert "--json and --csv both name -; give two files." in result.stderr


@pytest.mark.parametrize("name", QUICK)
def test_the_last_line_says_what_of_the_file_was_left_out(name, file):
    all_of_it = run(name, file, *QUICK[name])
    assert "Only " not in all_of_it.stdout.splitlines()[-1]
    part = run(name, file, *QUICK[name], "--layers", 1, "--tokens", 8)
    says = "Only 1 of 2 layers and the first 8 of 12 tokens of each layer were taken."
    assert part.stdout.splitlines()[-1].endswith(says)


def test_a_report_says_so_too(file, tmp_path):
    few = ("--layers", 1, "--tokens", 8, "--routers", "drop-by-score")
    result = run("report", file, *few, "-o", tmp_path / "page.html")
    says = "Only 1 of 2 layers and the first 8 of 12 tokens of each layer were taken."
    assert result.stderr.splitlines()[-1].endswith(says)


@pytest.mark.parametrize(("typed", "valid"), [("all", 1), ("2", 1), ("0", 0), ("x", 0)])
def test_jobs_is_a_number_or_all(file, typed, valid):
    words = ["verify", file, "--layers", 0, "--tokens", 0, "--jobs", typed]
    result = CliRunner().invoke(main, with_k(words))
    assert ("--tokens 0" in result.stderr) == bool(valid)  # refused later, as is meant
    assert ("Invalid value for '--jobs'" in result.stderr) != bool(valid)
