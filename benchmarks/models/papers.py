"""The hyperparameters that the baselines' authors chose for each data set, and where they say so.

Facts read from the authors' scripts, in the words of the networks as the package neuralforecast has them:

- PatchTST (Nie et al., ICLR 2023), github.com/yuqinie98/PatchTST at 204c21e: PatchTST_supervised/scripts/PatchTST, and
  the defaults of PatchTST_supervised/run_longExp.py;
- iTransformer (Liu et al., ICLR 2024), github.com/thuml/iTransformer at c2426e6: scripts/multivariate_forecasting, and
  the defaults of run.py;
- TimeMixer (Wang et al., ICLR 2024), github.com/kwuking/TimeMixer at 8d230b7: scripts/long_term_forecast/*_script, and
  the defaults of run.py;
- DLinear (Zeng et al., AAAI 2023), github.com/cure-lab/LTSF-Linear at 0c11366: scripts/EXP-LongForecasting/Linear, and
  the defaults of run_longExp.py.

All train with Adam on the squared error. Not taken over, because the budget is the same for all models of a table:
look-backs (chosen on validation data here), batch sizes, epochs and patience.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PAPER = "paper"  # a learning rate by this name is the authors' for the data set
DEFAULT = "Weather"  # whose recipe any other data set gets: more variables than ETT, and sampled finely


def halved(epoch: int) -> float:
    """The rate's factor in an epoch, the first being 0: two epochs as it is, then half of it for each.

    The scripts' "type1" sets the rate of the first epoch anew after that epoch, and only then begins to halve.
    """
    return float(0.5 ** max(0, epoch - 1))


def late_decay(epoch: int) -> float:
    """The same for "type3": four epochs as it is, then 0.9 times for each."""
    return float(0.9 ** max(0, epoch - 3))


def after_passes(factor: Callable[[int], float], share: float, epoch: int) -> float:
    """The `factor` after as many whole passes over the training windows, an epoch being a `share` of a pass.

    Else a sampled budget would end a schedule that is made for whole epochs long before the fit ends.
    """
    return factor(int(epoch * share))


FACTORS = {"halved": halved, "late_decay": late_decay}


@dataclass(frozen=True)
class Recipe:
    """A network's arguments, its learning rate, how that goes on from there, and the script.

    schedule: one of `FACTORS`, or "one_cycle" (over the whole fit; `warm_up` is the share in which it rises).
    """

    network: dict[str, Any]
    lr: float
    schedule: str
    source: str
    warm_up: float = 0.3


def _patchtst(script: str, schedule: str, warm_up: float = 0.3, small: bool = False) -> Recipe:
    sizes = {"n_heads": 4, "hidden_size": 16, "linear_hidden_size": 128, "dropout": 0.3, "fc_dropout": 0.3}
    if not small:
        sizes = {"n_heads": 16, "hidden_size": 128, "linear_hidden_size": 256, "dropout": 0.2, "fc_dropout": 0.2}
    fixed = {"encoder_layers": 3, "patch_len": 16, "stride": 8, "head_dropout": 0.0, "attn_dropout": 0.0}
    # neuralforecast's defaults subtract the last value; the authors' subtract the mean, and learn no scale
    norm = {"revin": True, "revin_affine": False, "revin_subtract_last": False}
    source = f"yuqinie98/PatchTST: PatchTST_supervised/scripts/PatchTST/{script}.sh"
    return Recipe({**sizes, **fixed, **norm}, 1e-4, schedule, source, warm_up)


def _itransformer(script: str, width: int, layers: int = 2, lr: float = 1e-4) -> Recipe:
    sizes = {"hidden_size": width, "d_ff": width, "e_layers": layers}
    fixed = {"n_heads": 8, "d_layers": 1, "factor": 1, "dropout": 0.1, "use_norm": True}
    return Recipe({**sizes, **fixed}, lr, "halved", f"thuml/iTransformer: scripts/multivariate_forecasting/{script}.sh")


def _timemixer(script: str, width: int = 16, layers: int = 2) -> Recipe:
    sizes = {"d_model": width, "d_ff": 32, "e_layers": layers, "down_sampling_layers": 3, "down_sampling_window": 2}
    fixed = {"down_sampling_method": "avg", "decomp_method": "moving_avg", "moving_avg": 25, "top_k": 5}
    # the authors treat variables apart (1) in all of these scripts; neuralforecast's default doesn't
    mode = {"channel_independence": 1, "dropout": 0.1, "use_norm": True}
    source = f"kwuking/TimeMixer: scripts/long_term_forecast/{script}_unify.sh"
    return Recipe({**sizes, **fixed, **mode}, 0.01, "one_cycle", source, 0.2)


# by data set, or by data set and horizon where the script tells horizons apart
RECIPES: dict[str, dict[str | tuple[str, int], Recipe]] = {
    "PatchTST": {
        "ETTh1": _patchtst("etth1", "late_decay", small=True),
        "ETTh2": _patchtst("etth2", "late_decay", small=True),
        "ETTm1": _patchtst("ettm1", "one_cycle", 0.4),
        "ETTm2": _patchtst("ettm2", "one_cycle", 0.4),
        "Weather": _patchtst("weather", "late_decay"),
        "Electricity": _patchtst("electricity", "one_cycle", 0.2),
    },
    "iTransformer": {
        "ETTh1": _itransformer("ETT/iTransformer_ETTh1", 256),
        ("ETTh1", 336): _itransformer("ETT/iTransformer_ETTh1", 512),
        ("ETTh1", 720): _itransformer("ETT/iTransformer_ETTh1", 512),
        "ETTh2": _itransformer("ETT/iTransformer_ETTh2", 128),
        "ETTm1": _itransformer("ETT/iTransformer_ETTm1", 128),
        "ETTm2": _itransformer("ETT/iTransformer_ETTm2", 128),
        "Weather": _itransformer("Weather/iTransformer", 512, layers=3),
        "Electricity": _itransformer("ECL/iTransformer", 512, layers=3, lr=5e-4),
    },
    "TimeMixer": {
        "ETTh1": _timemixer("ETT_script/TimeMixer_ETTh1"),
        "ETTh2": _timemixer("ETT_script/TimeMixer_ETTh2"),
        "ETTm1": _timemixer("ETT_script/TimeMixer_ETTm1"),
        "ETTm2": _timemixer("ETT_script/TimeMixer_ETTm2", width=32),
        "Weather": _timemixer("Weather_script/TimeMixer", layers=3),
        "Electricity": _timemixer("ECL_script/TimeMixer", layers=3),
    },
}

# learning rates of the scripts for DLinear, by data set and horizon
DLINEAR_RATES = {
    **{("ETTh1", horizon): 5e-3 for horizon in (96, 192, 336, 720)},
    **{("ETTh2", horizon): 5e-2 for horizon in (96, 192, 336, 720)},
    **{("ETTm1", horizon): 1e-4 for horizon in (96, 192, 336, 720)},
    **{("ETTm2", horizon): 1e-3 for horizon in (96, 192)},
    **{("ETTm2", horizon): 1e-2 for horizon in (336, 720)},
    **{("Weather", horizon): 1e-4 for horizon in (96, 192, 336, 720)},
    **{("Electricity", horizon): 1e-3 for horizon in (96, 192, 336, 720)},
}


def recipe(network: str, dataset: str, horizon: int) -> Recipe:
    """The recipe of `network` for a data set and horizon in steps; that of `DEFAULT` where the authors have none."""
    found = RECIPES[network]
    return found.get((dataset, horizon)) or found.get(dataset) or found[DEFAULT]
