"""Router logits of real models: the reader of files, and the sample that ships with the package."""

from lp_routing.traces.read import read
from lp_routing.traces.sample import sample
from lp_routing.traces.trace import Trace

__all__ = ["Trace", "read", "sample"]
