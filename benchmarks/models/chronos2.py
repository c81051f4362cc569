"""Chronos-2, zero-shot, through Darts' `Chronos2Model` (Ansari et al. 2025, Apache-2.0)."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from darts.models import Chronos2Model
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError

from benchmarks.data.datasets import Dataset
from benchmarks.errors import WeightsMissing
from benchmarks.models.base import QUIET, Forecaster, quantile_likelihood
from benchmarks.models.views import AtLevels

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class Chronos2(Forecaster):
    """Zero-shot, with all variables as one group; quantiles at levels that it lacks are read off by `at_levels`.

    Options: `hub_model_name` and `revision` of the weights on the Hugging Face hub, or `local_dir`, a directory with
    config.json and model.safetensors (`python -m benchmarks run --option local_dir=DIRECTORY ...`).
    """

    trains = False
    defaults: ClassVar[Mapping[str, Any]] = {
        "look_back": None,
        "hub_model_name": "amazon/chronos-2",
        "revision": None,
        "local_dir": None,
    }

    def refusal(self, settings: Mapping[str, Any], dataset: Dataset, horizon: int) -> str | None:
        longest = self._config()["context_length"]
        if settings["look_back"] > longest:
            return f"a look-back of {settings['look_back']} steps is more than Chronos-2 sees; take at most {longest}"
        return super().refusal(settings, dataset, horizon)

    def build(
        self, settings: Mapping[str, Any], dataset: Dataset, horizon: int, seed: int, levels: Sequence[float] | None
    ) -> Chronos2Model | AtLevels:
        self._file(WEIGHTS)
        known = self._config()["quantiles"]
        model = Chronos2Model(
            settings["look_back"],
            horizon,
            likelihood=quantile_likelihood(None if levels is None else known),
            hub_model_name=self.options["hub_model_name"],
            hub_model_revision=self.options["revision"],
            local_dir=self.options["local_dir"],
            batch_size=self.budget.batch_size,
            random_state=seed,
            pl_trainer_kwargs=dict(QUIET),
        )
        model.fit(dataset.series("train"))  # reads the weights, trains nothing
        return model if levels is None else AtLevels(model, known, levels)

    def resolved(self, model: Any) -> dict[str, Any]:
        return {**super().resolved(model), "known_levels": self._config()["quantiles"]}

    def weights(self) -> str:
        return hashlib.sha256(self._file(WEIGHTS).read_bytes()).hexdigest()

    def _config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._file(CONFIG).read_text())["chronos_config"]
        return found

    def _file(self, name: str) -> Path:
        """One of the two files, from the directory, or the hub's cache; downloaded where that lacks it.

        WeightsMissing where that can't be for want of the hub; FileNotFoundError where what was asked for isn't there.
        """
        repo, revision, folder = (self.options[option] for option in ("hub_model_name", "revision", "local_dir"))
        if folder is not None:
            path = Path(folder).expanduser() / name
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path} does not exist; give local_dir a directory with {CONFIG} and {WEIGHTS}"
                )
            return path
        try:
            found = _from_hub(repo, name, revision)
        except OSError as error:
            raise FileNotFoundError(
                f"{name} of {repo} at revision {revision} can't be had ({error}); give another hub_model_name or "
                f"revision, or local_dir, a directory with {CONFIG} and {WEIGHTS}"
            ) from error
        if found is None:
            raise WeightsMissing(
                f"{name} of {repo} is not in the hub's cache, and the hub can't be reached; give --option "
                f"local_dir=DIRECTORY, one with {CONFIG} and {WEIGHTS}"
            )
        return found


@functools.cache  # an attempt without network takes half a minute
def _from_hub(repo: str, name: str, revision: str | None) -> Path | None:
    """The file in the hub's cache, downloaded where that lacks it; None where the hub can't be reached."""
    try:
        return Path(hf_hub_download(repo, name, revision=revision))
    except LocalEntryNotFoundError:
        return None
