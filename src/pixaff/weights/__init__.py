"""Published weights: a catalogue of what there is, sources to fetch it from, and a cache in which it is kept."""

from pixaff.weights.obtain import fetch

__all__ = ["fetch"]
