"""Measures the cost of Sluice, in comparison with alternatives."""
