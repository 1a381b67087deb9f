"""The sample trace: held-out router logits of the byte-level MoE that this project trained."""

from importlib.resources import as_file, files

from lp_routing.traces.read import read
from lp_routing.traces.trace import Trace


def sample() -> Trace:
    """Router logits [4 layers, 4096 tokens, 32 experts] in reading order; see `sample.md`."""
    with as_file(files("lp_routing.traces") / "sample.npz") as path:
        trace = read(path)
    return Trace(trace.router_logits, "the sample trace", trace.mask, trace.sequence)
