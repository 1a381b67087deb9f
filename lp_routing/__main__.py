"""`python -m lp_routing`: the command line, as its script calls it."""

import os
import sys
from contextlib import suppress


def run() -> None:
    """Run the command line, and end the process.

    After Ctrl-C it ends at once: C++ threads that still compute would crash the interpreter's
    normal exit.
    """
    try:
        from lp_routing.cli import main
        from lp_routing.cli.ending import INTERRUPTED, errors_in_words
    except KeyboardInterrupt:  # these imports take a tenth of a second
        os.write(2, b"Interrupted.\n")
        os._exit(130)
    try:
        with errors_in_words():  # of `--help`, which runs no command
            main(prog_name="lp-routing")
    except SystemExit as end:
        if end.code == INTERRUPTED:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError):  # stderr may be closed
                    stream.flush()
            os._exit(INTERRUPTED)
        raise


if __name__ == "__main__":
    run()
