"""Let Optuna choose the number of scales, the patch, the LoRA rank and the learning rates on validation data.

python examples/03_tune_with_optuna.py                 # bundled series and checkpoint, offline, a few minutes
python examples/03_tune_with_optuna.py --trials 30

It needs Optuna: pip install "darts-msft[tune]". For a model without a search of your own, see `darts_msft.tune`.
"""

import argparse
import logging

import optuna
from darts.dataprocessing.transformers import Scaler
from sklearn.preprocessing import StandardScaler

from darts_msft import MSFTFoundationModel
from darts_msft.datasets import load_sea_temperature

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--trials", type=int, default=6)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--context", type=int, default=512, help="steps of half an hour that the model looks back")
parser.add_argument("--horizon", type=int, default=96)
parser.add_argument("--stride", type=int, default=48, help="steps between two training windows")
args = parser.parse_args()
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

# 1. Learn from the first 70 % of the series, choose on the next 10 %; the rest stays unseen until all is chosen.
series = load_sea_temperature()
first, second = int(0.7 * len(series)), int(0.8 * len(series))
scaler = Scaler(StandardScaler())
train = scaler.fit_transform(series[:first])
validation = scaler.transform(series[first - args.context : second])


def settings_of(trial: optuna.Trial) -> dict:
    """What Optuna may vary. K is limited by the context, the horizon and the patch, hence asked for last."""
    patch_size = trial.suggest_categorical("patch_size", [16, 32])
    largest = MSFTFoundationModel.largest_num_scales(args.context, args.horizon, patch_size)
    return {
        "patch_size": patch_size,
        "num_scales": trial.suggest_int(f"num_scales_at_patch_{patch_size}", 0, min(3, largest)),
        "lora_rank": trial.suggest_categorical("lora_rank", [4, 16]),
        "lr_new": trial.suggest_float("lr_new", 1e-5, 1e-3, log=True),
        "lr_head": trial.suggest_float("lr_head", 1e-6, 1e-4, log=True),
    }


# 2. A trial is a short fit; its value is the best validation score (mean CRPS, lower is better).
def objective(trial: optuna.Trial) -> float:
    trainer = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer["enable_checkpointing"] = False
    options = {"n_epochs": args.epochs, "random_state": 0, "pl_trainer_kwargs": trainer}
    settings = settings_of(trial)
    model = MSFTFoundationModel(args.context, args.horizon, **settings, **options)
    model.fit(train, val_series=validation, stride=args.stride)
    trial.set_user_attr("settings", settings)
    trial.set_user_attr("zero-shot", model.fit_report.before)
    return model.fit_report.best


# 3. Search, and print what won. Then fit it yourself with more epochs; no trial has seen the last 20 % of the series.
study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=0))
study.optimize(objective, n_trials=args.trials)
best = study.best_trial
print(f"best validation CRPS: {best.value:.4f} in trial {best.number} (zero-shot {best.user_attrs['zero-shot']:.4f})")
for name, value in best.user_attrs["settings"].items():
    print(f"  {name} = {value:.3g}" if isinstance(value, float) else f"  {name} = {value}")
