"""The `lp-routing` command, one subcommand a file."""

import click

from lp_routing.cli.audit import audit
from lp_routing.cli.claims import claims
from lp_routing.cli.frontier import frontier
from lp_routing.cli.gap import gap
from lp_routing.cli.options import PACKAGES, check_writable, parse_layers, parse_tokens, versions
from lp_routing.cli.report import report
from lp_routing.cli.verify import verify

__all__ = ["PACKAGES", "check_writable", "main", "parse_layers", "parse_tokens", "versions"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lp-routing")
def main() -> None:
    """Certify Mixture-of-Experts routers against the exact optimum of their assignment problem."""


for command in (verify, gap, audit, claims, frontier, report):
    main.add_command(command)
