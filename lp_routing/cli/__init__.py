"""The `lp-routing` command, one subcommand a file.

Only the module of the command that is invoked is imported: `--help`, `--version` and the completion
of command names need none.
"""

from importlib import import_module

import click

SUMMARIES = {
    "capture": "Record the router logits of a model while it reads a text.",
    "verify": "Prove the optimum of every named problem and measure the quick rules against it.",
    "gap": "Measure how far routers are from the certified optimum of a problem, and what they "
    "cost.",
    "audit": "Audit routers: causality, batch invariance, decoding, ties, precision, scale, "
    "capacity.",
    "claims": "Check the literature's claims about routing, with numbers, on your logits.",
    "frontier": "Tell what a budget buys: the value of every budget, proved, and what a unit more "
    "is worth.",
    "report": "Write one self-contained HTML page: what routers lose, what capacity buys, and the "
    "proof.",
}
"""Command -> the first sentence of its help, which is listed without importing its module."""


class _LazyGroup(click.Group):
    """Lists commands by their summaries; loads the one that is invoked."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, listed, rest = super().resolve_command(ctx, args)
        return name, None if listed is None else load(str(listed.name)), rest

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; however it has to end, in words and soon."""
        from lp_routing.cli.ending import ends_in_words  # `--help` needs none of it

        with ends_in_words():
            return super().invoke(ctx)


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    commands=[click.Command(name, help=summary) for name, summary in SUMMARIES.items()],
)
@click.version_option(package_name="lp-routing")
def main() -> None:
    """Certify Mixture-of-Experts routers against the exact optimum of their assignment problem."""


def load(name: str) -> click.Command:
    """The command of a name of `SUMMARIES`, from its own module."""
    command: click.Command = getattr(import_module(f"lp_routing.cli.{name}"), name)
    return command
