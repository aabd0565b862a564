"""Images of results: overlays, heat maps, contact sheets, loss curves."""
