"""The `lp-routing` command: `commands` declares all options, one module a command does the work."""

from lp_routing.cli.commands import main as main
