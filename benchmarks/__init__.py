"""Measurements and the sample model: what is run by hand, not by the tests."""
