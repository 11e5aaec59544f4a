"""Tunes Python's garbage collector for batches."""

import gc

# A batch makes about thirty thousand objects and no cycles. With Python's default settings, the collector
# traverses all these objects 40 times per batch, which takes a quarter of the process's time.
YOUNG_OBJECTS = 200_000
GENERATIONS = 20


def tune_gc() -> None:
    """Excludes the existing objects from collection, and makes collections less frequent. Idempotent."""
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, GENERATIONS, GENERATIONS)
