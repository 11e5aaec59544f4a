"""`sluice rebuild`: makes a new generation of a projection, compares it with the live one, and swaps both."""
