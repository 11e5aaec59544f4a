"""Tunes Python's garbage collector for batches."""

import gc

# A batch makes some ten thousand objects and no cycles. With Python's defaults the collector traverses all
# of them 15 times per batch, which takes a quarter of the process's time.
YOUNG_OBJECTS = 50_000
GENERATIONS = 20


def tune_gc() -> None:
    """Excludes existing objects from collection, and collects others less often. Idempotent."""
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, GENERATIONS, GENERATIONS)
