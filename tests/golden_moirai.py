"""Makes `fixtures/golden_moirai.npz`: forecasts of the bundled MOIRAI, by method and K, that changes of code must keep.

From the repository's root, where a change of the forecasts is meant: OMP_NUM_THREADS=1 python tests/golden_moirai.py
With --check it compares bit by bit, which holds on the machine alone that made the file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from darts.utils.likelihood_models.torch import QuantileRegression
from model_fixtures import make_model, wave

from darts_msft import MSFTFoundationModel

FILE = Path(__file__).parent / "fixtures" / "golden_moirai.npz"
CONTEXT, HORIZON = 96, 12
LEVELS = [0.1, 0.5, 0.9]
CASES: dict[str, dict[str, Any]] = {
    **{
        f"{method}-{k}": {"method": method, "num_scales": k} for method in ("zero_shot", "msft", "full") for k in (0, 2)
    },
    **{f"quantiles-{k}": {"num_scales": k, "likelihood": QuantileRegression(LEVELS)} for k in (0, 2)},
    "memory-2": {"method": "zero_shot", "num_scales": 2, "finest_context": 48},
    "mixed_loss-2": {"num_scales": 2, "weight_learning": "mixed_loss"},
    "points-2": {"method": "lora", "num_scales": 2, "likelihood": None},
    "linear-2": {"num_scales": 2, "linear_member": True},
}


def make(name: str) -> MSFTFoundationModel:
    settings = {"input_chunk_length": CONTEXT, "output_chunk_length": HORIZON, "patch_size": 16, **CASES[name]}
    return make_model("moirai-tiny", trainer={"max_steps": 3, "max_epochs": -1}, **settings)


def forecasts(name: str) -> dict[str, np.ndarray]:
    """Points and the distribution's numbers, unfitted and after three steps."""
    torch.manual_seed(0)
    model, later, found = make(name), wave(120, components=2, seed=1), {}
    trains = not name.startswith(("zero_shot", "memory"))
    for stage in ("unfitted", "fitted"):
        if stage == "fitted":
            model.fit(wave(180, components=2), val_series=wave(120, components=2, seed=2))
        found[f"{name}/{stage}"] = model.predict(HORIZON, later).values()
        if model.likelihood is not None:
            numbers = model.predict(HORIZON, later, predict_likelihood_parameters=True).values()
            # each other component and step is enough
            found[f"{name}/{stage}/numbers"] = numbers[:: HORIZON - 1]
    if trains:
        found[f"{name}/scores"] = np.array([one.score for one in model.candidates])
    return found


def main(check: bool) -> None:
    torch.set_num_threads(1)
    found = {key: value for name in CASES for key, value in forecasts(name).items()}
    if check:
        with np.load(FILE) as saved:
            assert set(saved) == set(found)
            differing = [
                f"{key}: {np.nanmax(np.abs(saved[key] - found[key])):.2g}"
                for key in found
                if not np.array_equal(saved[key], found[key], equal_nan=True)
            ]
        print("\n".join(differing) or "all bits are the same")
        return
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main("--check" in sys.argv)
