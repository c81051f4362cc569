"""Synthetic series and the masked-horizon objective that made the bundled checkpoint."""
