"""Whole amounts within all bounds: in rounds, by exchanges between experts, by a maximum flow."""

from lp_routing.placing.exchanges import exchange
from lp_routing.placing.flow import meet_demands
from lp_routing.placing.placement import Placement
from lp_routing.placing.rounds import Floor, fill

__all__ = ["Floor", "Placement", "exchange", "fill", "meet_demands"]
