"""The one failure of a benchmark: something it needs cannot run. A figure that misses its bar is none."""


class CannotMeasure(Exception):
    """Says in one sentence what could not run and what to try."""
