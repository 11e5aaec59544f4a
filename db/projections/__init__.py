"""SQL of projections, their generations and their comparison."""
