"""Options that several commands have, each said once."""

from pathlib import Path

import click

file_argument = click.argument("file", required=False, type=click.Path(path_type=Path))
k_option = click.option("--k", default=2, show_default=True, help="Experts per token.")
capacity_factor_option = click.option(
    "--capacity-factor",
    default=1.25,
    show_default=True,
    help="Capacity of an expert, relative to an equal share.",
)
layers_option = click.option(
    "--layers", default="all", show_default=True, help='Which layers, e.g. "0,2" or "0-3".'
)
tokens_option = click.option(
    "--tokens",
    default="1024",
    show_default=True,
    help='How many tokens of each layer, from the first, or "all".',
)
score_option = click.option(
    "--score",
    type=click.Choice(["softmax", "sigmoid", "unified", "logits"]),
    default="softmax",
    show_default=True,
    help="How logits become what a pair is worth; routers choose by scores of their own.",
)
