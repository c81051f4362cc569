"""From Darts' batches to windows: targets first, then past covariates, then future ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from darts.utils.data.torch_datasets.utils import PLModuleInput, TorchInferenceBatch, TorchTrainingBatch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

Batch: TypeAlias = PLModuleInput | TorchTrainingBatch | TorchInferenceBatch


class Widths(NamedTuple):
    """How many components of each kind a model is made for."""

    targets: int
    past: int = 0
    future: int = 0

    @classmethod
    def of_shapes(cls, shapes: Mapping[str, Any] | None) -> Widths:
        """Of the shapes of a training window, by Darts' names; None: one target alone."""
        if shapes is None:
            return cls(1)
        names = ("past_target", "past_covariates", "future_covariates")
        found = [shapes.get(name) for name in names]
        return cls(*(shape[-1] if shape is not None else 0 for shape in found))

    def group(self, multivariate: str, hears_future: bool) -> int:
        """How many variates attend to one another: each target alone, or all, with all covariates that are heard."""
        return self.past + (self.future if hears_future else 0) + (self.targets if multivariate == "joint" else 1)


class Window(NamedTuple):
    """What a forecast sees: NaN is missing, as is the future but for the last `ahead` variates, future covariates.

    H counts the gap of `output_chunk_shift` too, where nothing is known.
    """

    past: Float[Tensor, "B V C"]
    future: Float[Tensor, "B V H"]
    targets: int
    ahead: int

    @property
    def past_target(self) -> Float[Tensor, "B C Vt"]:
        """As Darts has it."""
        return rearrange(self.past[:, : self.targets], "b v c -> b c v")

    @property
    def known(self) -> tuple[Float[Tensor, "B C K"], Float[Tensor, "B H K"]] | None:
        """The future covariates, of the past and the future; None where there are none."""
        if not self.ahead:
            return None
        past, future = (rearrange(part[:, -self.ahead :], "b k c -> b c k") for part in (self.past, self.future))
        return past, future

    def to(self, like: Tensor) -> Window:
        """With the precision and on the device of a tensor."""
        return self._replace(past=self.past.to(like), future=self.future.to(like))

    def without_known(self) -> Window:
        """Without the future covariates."""
        others = self.past.shape[1] - self.ahead
        return self._replace(past=self.past[:, :others], future=self.future[:, :others], ahead=0)

    def rows(self, joint: bool, together: bool = True) -> Window:
        """The windows that are encoded: these if `joint`, else one for each target, with all covariates.

        If not `together`, one for each target alone.
        """
        if not together:
            alone = self._replace(past=self.past[:, : self.targets], future=self.future[:, : self.targets], ahead=0)
            return alone.rows(joint=False)
        if joint or self.targets == 1:
            return self
        return Window(_apart(self.past, self.targets), _apart(self.future, self.targets), 1, self.ahead)

    def ending(self, end: int, shift: int) -> Window:
        """The window as it was when the steps from `end` on were to be forecast, `shift` steps after the last one seen.

        Padded with NaN on the left. What a future covariate has been since was known then.
        """
        length, origin = self.past.shape[-1], max(end - shift, 0)
        past, future = F.pad(self.past[..., :origin], (length - origin, 0), value=torch.nan), self.future
        if self.ahead:
            whole = torch.cat([self.past, self.future], dim=-1)[:, -self.ahead :, max(end, 0) :]
            future = torch.full_like(future, torch.nan)
            future[:, -self.ahead :, shift:] = whole[..., : future.shape[-1] - shift]
        return self._replace(past=past, future=future)


def _apart(values: Float[Tensor, "B V C"], targets: int) -> Float[Tensor, "BVt V2 C"]:
    own = rearrange(values[:, :targets], "b v c -> (b v) 1 c")
    if targets == values.shape[1]:
        return own
    return torch.cat([own, values[:, targets:].repeat_interleave(targets, dim=0)], dim=1)


def window_of(batch: Batch, horizon: int, shift: int) -> Window:
    """The windows of a batch, whose forecast is of `horizon` steps after a gap of `shift` steps.

    Of future covariates that go on for longer, such as those of a forecast of many steps, the first `horizon` count.
    """
    target = batch.past_target
    parts = [target, batch.past_covariates, batch.historic_future_covariates]
    given = [part.to(target.dtype) for part in parts if part is not None]
    past = rearrange(target if len(given) == 1 else torch.cat(given, dim=-1), "b c v -> b v c")
    future = torch.full_like(past[..., :1], torch.nan).expand(-1, -1, shift + horizon)
    ahead = 0
    if batch.future_covariates is not None:
        known = rearrange(batch.future_covariates[:, :horizon], "b h v -> b v h")
        ahead, future = known.shape[1], future.clone()
        future[:, -ahead:, shift : shift + known.shape[-1]] = known
    return Window(past, future, target.shape[-1], ahead)


def joined(windows: Sequence[Window]) -> Window:
    """One batch of several."""
    past, future = (torch.cat(parts) for parts in zip(*(window[:2] for window in windows), strict=True))
    return windows[0]._replace(past=past, future=future)


def module_input(batch: TorchInferenceBatch, horizon: int) -> PLModuleInput:
    """What a module is given for the first `horizon` steps."""
    future = batch.future_covariates
    return PLModuleInput(
        past_target=batch.past_target,
        past_covariates=batch.past_covariates,
        historic_future_covariates=batch.historic_future_covariates,
        future_covariates=None if future is None else future[:, :horizon],
    )
