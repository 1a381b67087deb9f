"""The `lp-routing` command: `commands` says what can be typed, one module a command does it."""

from lp_routing.cli.commands import main as main
