"""Every command as click declares it: options and help, without slow imports.

The work is in the module of the command's name, whose `run` is imported when it is invoked: help,
version and completion load neither torch nor a solver.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click

import lp_routing
from lp_routing.cli.ending import ends_in_words

Command = Callable[..., Any]

PROBLEMS = (
    "capacity",
    "balanced",
    "unified",
    "token_choice",
    "expert_choice",
    "served_unified",
    "capped_expert_choice",
)
"""The named problems of `lp_routing.problems`."""

SCORES = ("softmax", "sigmoid", "unified", "logits", "sqrt_softplus", "probabilities")
"""The names of `lp_routing.scores.BY_NAME`, which cannot be imported without torch."""

BUDGETS = ("total", "capacity", "k", "layers")
"""The budgets of `frontier --over`."""

OWN = "own"
"""Value of `gap --problem`: each router by the problem that it seeks itself."""

AUDITED = (
    "token-choice,drop-by-score,drop-token-major,expert-choice,unified-probability,unified-usmoe"
)
"""Default routers of `audit`."""

REPORTED = (
    "drop-by-score,drop-token-major,batch-prioritised,prices,token-choice,expert-choice,"
    "unified-probability"
)
"""Default routers of `report`."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(lp_routing.__version__)
def main() -> None:
    """Certify Mixture-of-Experts routers against the exact optimum of their assignment problem."""


def _run(name: str, options: dict[str, Any]) -> None:
    """Import the module of a command and run it; errors end it with a message and a status."""
    with ends_in_words():
        status = import_module(f"lp_routing.cli.{name}").run(options)
    sys.exit(status)


LOGITS = """

    FILE holds router logits: .npz, .npy, .safetensors or .pt, with the key `router_logits` [layers,
    tokens, experts] or [tokens, experts]. Without FILE, the sample that ships with the package.
"""
"""What the help of a command with `file_argument` says below its first line."""


def file_argument(command: Command) -> Command:
    """FILE, its help, and the options for reading it; `lp_routing.cli.options.opened` reads it."""
    first, _, rest = (command.__doc__ or "").partition("\n")
    command.__doc__ = f"{first}{LOGITS}{rest}"
    for option in (
        click.option(
            "--values",
            type=click.Choice(["logits", "probabilities"]),
            help="What FILE holds; left out, what it says, else logits.",
        ),
        click.option(
            "--axes",
            metavar="ORDER",
            help='Order of the axes in FILE, such as "LTE", "TLE" or "LBSE": layers, tokens (or '
            "batch and sequence), experts. Needed where the shape leaves it in doubt.",
        ),
        click.argument("file", required=False, type=click.Path(path_type=Path)),
    ):
        command = option(command)
    return command


def routers_option(default: str | None, words: str) -> Callable[[Command], Command]:
    """`--routers`, which may be repeated to give more names."""
    return click.option(
        "--routers",
        multiple=True,
        default=None if default is None else [default],
        show_default=default is not None,
        callback=lambda _context, _option, typed: ", ".join(typed) if typed else None,
        help=f"{words} May be repeated.",
    )


def path_option(*names: str, words: str, **given: Any) -> Callable[[Command], Command]:
    """An option that names a file to write."""
    return click.option(*names, type=click.Path(path_type=Path), help=words, **given)


def devices_option(words: str, **given: Any) -> Callable[[Command], Command]:
    """`--devices`, how many devices share the experts."""
    return click.option("--devices", type=click.IntRange(1), help=words, **given)


def whole_option(name: str, least: int, default: int, words: str) -> Callable[[Command], Command]:
    """An option that takes a whole number."""
    return click.option(
        name, default=default, show_default=True, type=click.IntRange(least), help=words
    )


def seed_option(words: str) -> Callable[[Command], Command]:
    """`--seed`, a whole number of 0 or more."""
    return whole_option("--seed", 0, 0, words)


class Jobs(click.IntRange):
    """A number of processes, or "all" for one a core."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        return os.cpu_count() or 1 if value == "all" else int(super().convert(value, param, ctx))


SHARED: dict[str, Callable[[Command], Command]] = {
    "k": click.option(
        "--k", type=int, help="Experts per token. Left out: what FILE says; 2 for the sample."
    ),
    "score": click.option(
        "--score",
        type=click.Choice(SCORES),
        help="How logits become what a pair is worth; routers choose by scores of their own. Left "
        "out: what FILE says, else softmax.",
    ),
    "capacity-factor": click.option(
        "--capacity-factor",
        type=float,
        help="Capacity of an expert, relative to an equal share. Left out: what FILE says, else "
        "1.25.",
    ),
    "layers": click.option(
        "--layers", default="all", show_default=True, help='Which layers, e.g. "0,2" or "0-3".'
    ),
    "tokens": click.option(
        "--tokens",
        default="all",
        show_default=True,
        help="How many tokens of each layer, from the first; the last line then says so.",
    ),
    "jobs": click.option(
        "--jobs",
        default=1,
        show_default=True,
        type=Jobs(1),
        help='Processes, "all" for one a core; each has one thread where several.',
    ),
    "json": path_option("--json", "json_path", words='Write the results here; "-": to stdout.'),
    "csv": path_option("--csv", "csv_path", words='Write the rows here; "-": to stdout.'),
    "plot": path_option(
        "--plot",
        "plot_path",
        words='Draw here: .png, .pdf or .svg; "-": .svg to stdout. Where a figure is of one layer '
        "and there are several, each beside it by its name.",
    ),
    "width": click.option(
        "--width",
        type=click.Choice(["page", "column"]),
        default="page",
        show_default=True,
        help="Of the figure: 7 inches, or 3.4, a column of two.",
    ),
}
"""The options of all commands, with one default each."""


def shared_options(*without: str) -> Callable[[Command], Command]:
    """The options in `SHARED`, but for those that the command has no use for."""
    left_out = {*without, *(["width"] if "plot" in without else [])}

    def decorate(command: Command) -> Command:
        for name in reversed(SHARED):
            command = command if name in left_out else SHARED[name](command)
        return command

    return decorate


resume_option = path_option(
    "--resume",
    "resume_path",
    metavar="PATH.jsonl",
    words="Keep each result here as it comes; go on from those that are here.",
)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("text", default="-", type=click.Path(path_type=Path, allow_dash=True))
@path_option("-o", "--output", required=True, words="The file to write.")
@click.option(
    "--tokens",
    default="4096",
    show_default=True,
    help='How many tokens of the text, from the first, or "all".',
)
@whole_option("--length", 1, 512, "Tokens in a sequence; each is a pass of its own.")
@click.option(
    "--names",
    multiple=True,
    help='Names of the routers, with wildcards, such as "layers.*.mlp.gate"; found by class if '
    "left out.",
)
@click.option("--device", default="cpu", show_default=True, help="Where the model runs.")
def capture(**options: Any) -> None:
    """Record the router logits of a model while it reads a text.

    MODEL is a local folder with a model of transformers and its tokenizer; nothing is downloaded,
    no code in it is run. TEXT is a text file; without it, standard input is read.

    The file also holds k, the score function, the selection bias and where sequences begin. Exit
    status: 0, or 2 on bad input.
    """
    _run("capture", options)


@main.command()
@file_argument
@shared_options("plot")
@click.option(
    "--confirm-seconds",
    default=60.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Time for HiGHS and CLARABEL to confirm what MinCostFlow proved, all processes together.",
)
@resume_option
def verify(**options: Any) -> None:
    """Prove the optimum of every named problem and measure the quick rules against it.

    Tables come layer by layer; the confirmations follow, spread over layers and problems, until
    their time is spent. The last line says how many were proved and how many confirmed.

    Exit status: 0 when all that claims exactness is exact, 1 when something is not, 2 on bad input.
    """
    _run("verify", options)


@main.command()
@file_argument
@routers_option(
    None,
    'Names with commas between, "all", or a function of yours: package.module:function or '
    'file.py:function; "optimum" is the exact solver. Left out: those that seek the problem.',
)
@click.option(
    "--problem",
    "problem_name",
    type=click.Choice([*PROBLEMS, OWN]),
    default="capacity",
    show_default=True,
    help=f'What is judged by; "{OWN}": each router by the problem it seeks, on its own scores.',
)
@shared_options()
@whole_option("--repeats", 1, 5, "Timed calls of each router; fewer if slow.")
@whole_option(
    "--warm-up", 0, 0, "Steps on the same batch that routers with a state have behind them."
)
@whole_option(
    "--warm-on",
    0,
    0,
    "Instead: steps on this many other batches, the tokens that follow in the same layer.",
)
@seed_option("Of routers that draw at random.")
@click.option("--by-layer", is_flag=True, help="Also print a table for each layer as it comes.")
@resume_option
def gap(**options: Any) -> None:
    """Measure how far routers are from the certified optimum of a problem, and what they cost.

    Every router goes from the logits by its own rule; what it takes is judged by the scores of the
    problem. One table over all layers: mean gap and worst, tokens dropped, milliseconds and units
    of torch.topk on the scores (with several --jobs, of one thread each, beside each other).
    Routers that seek another problem are measured on request; where they break a bound of this
    one, the table says which.

    Exit status: 0, 2 on bad input, or 130 when interrupted.
    """
    _run("gap", options)


@main.command()
@file_argument
@routers_option(AUDITED, 'Names, with commas between; or "all".')
@shared_options("score", "plot")
@resume_option
def audit(**options: Any) -> None:
    """Audit routers: causality, batch invariance, decoding, ties, precision, scale, capacity.

    The tokens of a layer are taken as one batch in reading order. Where FILE says to which
    sequence each belongs, no token is later than those of another sequence.

    Exit status: 0 when the audits ran, whatever they found; 2 on bad input.
    """
    _run("audit", options)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("other", required=False, type=click.Path(path_type=Path))
@click.option(
    "--axes",
    type=click.Choice(["LTK", "TLK"]),
    help="Order of the axes of an array: layers, tokens, choices. Left out: what its key says.",
)
@click.option("--experts", type=click.IntRange(1), help="How many; left out, what FILE says.")
@click.option(
    "--capacity-factor",
    default=1.25,
    show_default=True,
    type=float,
    help="Slots of an expert over an equal share of the pairs, for what would be dropped.",
)
@devices_option("Loads by device, too; each has neighbouring experts.")
@click.option(
    "--logits",
    type=click.Path(path_type=Path),
    help="Router logits of the same tokens, for gap and margins; left out, those beside the trace.",
)
@shared_options("k", "capacity-factor", "tokens", "jobs", "plot")
def choices(**options: Any) -> None:
    """Tell what recorded choices say without scores, and how two recordings differ.

    FILE holds the experts that tokens took: an array of vLLM or SGLang (`routed_experts` [tokens,
    layers, k]) or `expert_ids` [layers, tokens, k] in .npz, .npy, .safetensors or .pt; the folder
    of a router trace of Megatron-LM; or a table with one expert a row, JSONL, CSV or Parquet. The
    form is told by content. With OTHER, a recording of the same tokens, how often the two differ.

    Exit status: 0, or 2 on bad input.
    """
    _run("choices", options)


@main.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@devices_option("How many.", required=True)
@click.option(
    "--slots", required=True, type=click.IntRange(1), help="Replicas that a device holds."
)
@click.option(
    "--holds",
    type=click.Choice(["logits", "choices", "loads"]),
    default="logits",
    show_default=True,
    help="What FILE holds: router logits, of which each token takes its k best; recorded choices; "
    "or loads [layers, experts].",
)
@click.option(
    "--decay",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Of loads [steps, layers, experts]: weight of a step over that of the next.",
)
@click.option(
    "--search",
    "search_s",
    default=0.0,
    type=click.FloatRange(0),
    help="Seconds of branch and bound for each layer, for some tens of slots.",
)
@shared_options("score", "capacity-factor", "jobs", "plot")
def place(**options: Any) -> None:
    """Place replicas of experts on devices so that no device has too many tokens, with a proof.

    FILE holds router logits, recorded choices or loads; without it, the sample that ships with the
    package. Every replica serves the same share of its expert's tokens. Beside EPLB's greedy rule,
    exchanges between devices; the bound says how much is left.

    Exit status: 0, or 2 on bad input.
    """
    _run("place", options)


@main.command()
@file_argument
@click.option(
    "--only", multiple=True, metavar="ID", help='Such as "B1" or "B1,O10"; may be repeated.'
)
@shared_options("score", "capacity-factor", "plot")
@seed_option("Of what checks draw.")
@path_option("--markdown", "page_path", words="Also write a page here.")
@path_option("--papers", "papers_path", words="Also write a page of papers, a row each, here.")
@resume_option
def claims(**options: Any) -> None:
    """Check the literature's claims about routing, with numbers, on your logits.

    Exit status: 0 when all verdicts come out as stated, 1 when evidence contradicts one or a check
    fails, 2 on bad input, 130 when interrupted.
    """
    _run("claims", options)


@main.command()
@file_argument
@shared_options("capacity-factor", "plot")
@click.option(
    "--factors",
    default="1,1.25,1.5,2,3",
    show_default=True,
    help="Capacity factors, relative to an equal share.",
)
@click.option(
    "--keep",
    default=0.99,
    show_default=True,
    type=float,
    help="The share of the value without a capacity that is to be kept.",
)
@path_option("--html", "html_path", words="Write a page with the table and a figure here.")
@resume_option
def decide(**options: Any) -> None:
    """Pick a capacity factor: what rules and the optimum keep at each, and a recommendation.

    All layers together. What is said of factors in between is proved: an assignment that holds as
    much, and prices by which none with fewer slots can.

    Exit status: 0, 2 on bad input, or 130 when interrupted.
    """
    _run("decide", options)


@main.command()
@file_argument
@click.option(
    "--over",
    type=click.Choice(BUDGETS),
    default="total",
    show_default=True,
    help="The budget: pairs in all; slots of every expert; experts per token; pairs in all layers.",
)
@shared_options()
@click.option(
    "--points",
    default="20",
    show_default=True,
    help='Capacities to solve, or budgets to show; "all" for each capacity, each breakpoint; over '
    'capacity also factors, such as "1,1.25,1.5".',
)
@routers_option(None, 'Names of the catalogue, comma separated, "all" or "none"; left out: two.')
@seed_option("Of routers that draw at random.")
@resume_option
def frontier(**options: Any) -> None:
    """Tell what a budget buys: the value of every budget, proved, and what a unit more is worth.

    Over total and layers the curves are exact at every budget. Over capacity (at most k experts a
    token) and k (under one capacity), a layer is solved at several budgets; value and proved bound
    hold between them, too.

    Exit status: 0, 2 on bad input, or 130 when interrupted.
    """
    _run("frontier", options)


@main.command()
@file_argument
@click.argument("other", required=False, type=click.Path(path_type=Path))
@path_option("-o", "--output", required=True, metavar="PAGE.html", words="Write the page here.")
@routers_option(
    REPORTED, 'Names of the catalogue, with commas between, or "all"; the page is about the first.'
)
@shared_options("jobs", "json", "csv", "plot")
@seed_option("Of all that is drawn at random.")
@click.option("--times", is_flag=True, help="Time the routers, too; times differ from run to run.")
@click.option("--date", "dated", default="", help='Put this date on the page; "today" is today\'s.')
def report(**options: Any) -> None:
    """Write one self-contained HTML page: what routers lose, what capacity buys, and the proof.

    A token takes at most k experts, an expert at most its capacity. The page loads nothing from
    anywhere. The same input gives the same page; a part that fails says so in its place. With a
    second file, OTHER, the page compares the two: the same questions, answers side by side.

    Exit status: 0; 1 when a part failed, an optimum is not proved or evidence contradicts a claim
    (the page is written); 2 on bad input; 130 when interrupted (what there is, is written).
    """
    _run("report", options)
