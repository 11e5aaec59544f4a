"""`sluice rebuild`: makes a new generation of a projection, compares it with the live generation,
and makes it live.
"""
