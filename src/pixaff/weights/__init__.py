"""Published weights by name, kept in a user cache: `fetch("resnet38-cam")` gives the path of the file."""

from pixaff.weights.fetching import fetch

__all__ = ["fetch"]
