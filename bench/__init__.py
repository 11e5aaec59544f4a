"""The bench measures the cost of Sluice, in comparison with alternatives.

A contender is one way to write events into Postgres: Sluice or a peer (an alternative). A site is
a contender with an empty topic, database and Redis. A drain is the processing of an existing log.
A floor is a limit for a figure.
"""
