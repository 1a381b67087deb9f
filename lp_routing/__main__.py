"""`python -m lp_routing`: the command line, where its script is not on the path."""

from lp_routing.cli import main

if __name__ == "__main__":
    main(prog_name="lp-routing")
