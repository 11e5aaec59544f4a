"""`sluice queue`: queues that are halted, and how they go on."""
