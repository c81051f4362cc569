"""What Darts' `gridsearch` makes its candidates with."""

from __future__ import annotations

from typing import Any


class Candidates:
    """Stands in for the model's class: what it makes may be fitted along a series, as its user asked for.

    A mark on the models, as context variables don't reach the processes of `n_jobs`.
    """

    def __init__(self, model_class: Any) -> None:
        self.model_class = model_class

    def __call__(self, **arguments: Any) -> Any:
        model = self.model_class(**arguments)
        model._refits = True
        return model

    def _sample_params(self, *args: Any) -> Any:
        return self.model_class._sample_params(*args)
