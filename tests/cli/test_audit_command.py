"""`lp-routing audit`: exit status, names with commas, one sentence on bad input, strict JSON."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from lp_routing.audits import Finding
from lp_routing.cli.commands import AUDITED, audit
from lp_routing.cli.options import PACKAGES, parse_routers
from lp_routing.report.audits import cell, sentences
from lp_routing.routers.catalogue import CATALOGUE
from tests.commands import with_k

NAMES = tuple(CATALOGUE)
LOGITS = np.random.default_rng(0).normal(size=(2, 12, 4)).astype(np.float32)


def run(*arguments: object):
    """Run the command in this process; whatever happens, it must not end in a traceback."""
    result = CliRunner().invoke(audit, with_k(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def file(tmp_path):
    np.savez(tmp_path / "logits.npz", router_logits=LOGITS)
    return tmp_path / "logits.npz"


def test_routers_that_are_named_one_by_one_add_up(file, tmp_path):
    path = tmp_path / "a.json"
    result = run(file, "--routers", "token-choice", "--routers", "unified-usmoe", "--json", path)
    assert result.exit_code == 0
    content = json.loads(path.read_text())
    assert content["options"]["routers"] == ["token-choice", "unified-usmoe"]


def test_findings_are_shown_told_and_written(file, tmp_path):
    result = run(
        file,
        "--routers",
        "token-choice,unified-usmoe",
        "--json",
        tmp_path / "a.json",
    )
    assert result.exit_code == 0
    assert f"{file}: 2 layer(s), 12 of 12 tokens, 4 experts; k=2" in result.stdout.replace("\n", "")
    assert "Layer 1, unified-usmoe, causality: " in result.stdout
    assert "Layer 0, token-choice, causality" not in result.stdout
    assert result.stderr.splitlines()[-1] == "auditing: 4 of 4"
    content = json.loads((tmp_path / "a.json").read_text())
    rows = content["findings"]
    assert {(row["layer"], row["router"]) for row in rows} == {
        (layer, name) for layer in (0, 1) for name in ("token-choice", "unified-usmoe")
    }
    verdicts = {(r["router"], r["audit"]): r["verdict"] for r in rows if r["layer"] == 0}
    assert verdicts["token-choice", "causality"] == "holds"
    assert verdicts["unified-usmoe", "causality"] == "fails"
    assert all(set(row) >= {"sentence", "share", "count", "of", "example"} for row in rows)
    assert content["source"] == str(file)
    assert set(content["versions"]) == {"python", *PACKAGES}
    assert content["options"] == {
        "routers": ["token-choice", "unified-usmoe"],
        "k": 2,
        "capacity_factor": 1.25,
        "layers": "all",
        "tokens": 12,
        "jobs": 1,
    }


def test_the_capacity_is_that_of_the_factor(file, tmp_path):
    # 12 tokens, k = 1, 4 experts: an equal share is 3; some expert is the best of more tokens.
    arguments = ("--k", 1, "--capacity-factor", 1, "--routers", "token-choice,drop-by-score")
    arguments += ("--layers", 0)
    assert run(file, *arguments, "--json", tmp_path / "a.json").exit_code == 0
    load = np.bincount(LOGITS[0].argmax(1), minlength=4)
    found = {
        row["router"]: row
        for row in json.loads((tmp_path / "a.json").read_text())["findings"]
        if row["audit"] == "feasibility"
    }
    assert found["token-choice"]["count"] == int((load > 3).sum()) > 0
    assert found["token-choice"]["numbers"]["worst"] == load.max() - 3
    assert found["drop-by-score"]["verdict"] == "holds"


def test_the_handful_runs_on_the_sample():
    result = run("--tokens", 64, "--layers", 0)
    assert result.exit_code == 0
    assert "the sample trace: 1 layer(s), 64 of 4096 tokens, 32 experts" in result.stdout
    assert result.stderr.count("of 6") == 6
    last = result.stdout.splitlines()[-1]
    assert last == "Only 1 of 4 layers and the first 64 of 4096 tokens of each layer were taken."
    headers = "".join(part[-400:] for part in result.stdout.split("repeatable")[:-1])
    for word in ("token-choice", "drop-by-score", "token-major", "expert", "unified-usmoe"):
        assert word in headers  # nothing is cut off on 80 columns
    assert max(map(len, result.stdout.split("Layer 0, ")[0].splitlines())) <= 80


def test_the_default_routers_are_in_the_catalogue():
    assert len(parse_routers(AUDITED, NAMES)) == 6


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--k", "5"], "k=5 is more than E, the number of experts (4)."),
        (
            ["--routers", "best"],
            "--routers: 'best' is unknown; expected \"all\", or some of: token-choice; ",
        ),
        (["--routers", ""], "--routers: '' is unknown; expected \"all\""),
        (["--layers", "2"], "--layers 2: this file has the layers 0 to 1."),
        (["--tokens", "0"], '--tokens 0: expected "all" or a whole number >= 1.'),
        (["--capacity-factor", "nan"], "capacity factor nan: expected a positive number."),
        (["--json", "."], "--json .: cannot be written"),
    ],
)
def test_an_option_that_makes_no_sense_gives_status_2_and_one_sentence(file, arguments, says):
    result = run(file, *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {says}")
    assert result.stderr.count("\n") == 1


def test_a_missing_file_gives_status_2_and_bad_input_leaves_no_result(tmp_path, file):
    assert run(tmp_path / "none.npz").exit_code == 2
    assert run(file, "--k", 9, "--json", tmp_path / "a.json").exit_code == 2
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize(
    ("verdict", "count", "of", "shown"),
    [
        ("holds", 0, 8, "holds"),
        ("not asked", None, None, "-"),
        ("fails", None, None, "no answer"),
        ("fails", 1, 8, "12.5 %"),
        ("fails", 1, 8000, "0.0125 %"),
    ],
)
def test_a_finding_is_shown_in_a_word_or_a_share(verdict, count, of, shown):
    finding = Finding("ties", "?", verdict, "A sentence.", count, of)
    assert cell(finding).text == shown
    lines = sentences(3, {"token-choice": [finding, finding]})
    assert lines == ([] if verdict == "holds" else ["Layer 3, token-choice, ties: A sentence."])
    assert finding.share is None or math.isfinite(finding.share)


def test_a_share_of_the_places_that_were_asked_is_called_the_least():
    finding = Finding("causality", "?", "fails", "Some.", 9, 255, at_least=True)
    assert cell(finding).text == ">= 3.53 %"
    assert cell(replace(finding, at_least=False)).text == "3.53 %"
