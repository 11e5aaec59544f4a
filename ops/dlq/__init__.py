"""`sluice dlq`: events that could not be applied, and what waits behind them."""
