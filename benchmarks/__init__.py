"""Measurements of darts_msft; each script writes an append-only JSON under `results/`."""
