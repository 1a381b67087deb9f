"""Router logits of real models: from files, by hooks on a model, and a sample."""

from lp_routing.traces.capture import Captured, capture
from lp_routing.traces.choices import RecordedChoices, read_choices
from lp_routing.traces.reading import read, sample
from lp_routing.traces.trace import Trace

__all__ = [
    "Captured",
    "RecordedChoices",
    "Trace",
    "capture",
    "read",
    "read_choices",
    "sample",
]
