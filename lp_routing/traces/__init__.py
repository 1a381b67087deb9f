"""Router logits of real models: the reader of files, hooks on a model, the sample that ships."""

from lp_routing.traces.capture import Captured, capture
from lp_routing.traces.trace import Trace, read, sample

__all__ = ["Captured", "Trace", "capture", "read", "sample"]
