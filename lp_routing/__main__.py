"""`python -m lp_routing`: the command line, as its script calls it."""

import os
import sys
from contextlib import suppress

from lp_routing.cli import main


def run() -> None:
    """Run the command line, and end the process.

    After Ctrl-C it ends at once: C++ threads that still compute would crash the interpreter's
    normal exit.
    """
    try:
        main(prog_name="lp-routing")
    except SystemExit as end:
        from lp_routing.cli.ending import INTERRUPTED  # `--help` needs none of it

        if end.code == INTERRUPTED:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError):  # stderr may be closed
                    stream.flush()
            os._exit(INTERRUPTED)
        raise


if __name__ == "__main__":
    run()
