"""Routers judged by the certified optimum of one problem."""
