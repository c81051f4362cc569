"""Finetune a pretrained forecaster with MSFT; compare it with zero-shot, DLinear and seasonal naive.

python examples/01_quickstart.py                                        # bundled series, offline
python examples/01_quickstart.py --dataset ETTh1 --data ../shared/data
python examples/01_quickstart.py --forecast docs/images/forecast.png    # the README's picture
"""

import argparse

import numpy as np
from darts.dataprocessing.transformers import Scaler
from darts.metrics import mae, mcrps, mse
from darts.models import DLinearModel, NaiveSeasonal
from darts.utils.likelihood_models.torch import QuantileRegression
from report import plot_forecast, plot_report, print_table
from sklearn.preprocessing import StandardScaler

from darts_msft import MSFTFoundationModel
from darts_msft.datasets import load_dataset

STEPS_PER_DAY = {"sea_temperature": 48, "ETTh1": 24, "ETTm1": 96}
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="sea_temperature", choices=STEPS_PER_DAY)
parser.add_argument("--data", help="folder with the ETT files; default: DARTS_MSFT_DATA, else Darts' own download")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--out", default="examples/output", help="folder for the picture and DLinear's checkpoints")
parser.add_argument("--forecast", help="file for a picture of the first forecast alone")
args = parser.parse_args()

# 1. A real series: learn from the first 80 %, choose on the next 10 %, measure on the rest.
CONTEXT, HORIZON, day = 512, 96, STEPS_PER_DAY[args.dataset]
series = load_dataset(args.dataset, args.data)
first, second = int(0.8 * len(series)), int(0.9 * len(series))
scaler = Scaler(StandardScaler())
train = scaler.fit_transform(series[:first])
validation, test = (scaler.transform(part) for part in (series[first - CONTEXT : second], series[second - CONTEXT :]))

# 2. All models look back 512 steps and keep the epoch that is best on validation. MSFT sees a training window a day,
# DLinear, which starts from random weights, every 8th window.
shared = {"input_chunk_length": CONTEXT, "output_chunk_length": HORIZON, "random_state": 0}
shared["pl_trainer_kwargs"] = {"accelerator": "cpu", "enable_model_summary": False}
zero_shot = MSFTFoundationModel(**shared)
msft = MSFTFoundationModel(**shared, n_epochs=args.epochs)
msft.fit(train, val_series=validation, stride=day, verbose=True)
print("\nvalidation score:", ", ".join(f"{state.label} {state.score:.5f}" for state in msft.candidates))
print(f"kept: {msft.fit_report.kept}")  # "zero-shot" where no epoch was better than the pretrained model
keep = {"save_checkpoints": True, "force_reset": True, "work_dir": args.out, "model_name": "DLinear"}
levels = QuantileRegression([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
dlinear = DLinearModel(**shared, **keep, n_epochs=10 * args.epochs, likelihood=levels)
dlinear.fit(train, val_series=validation, stride=8, verbose=False, load_best=True)

# 3. Backtest on the last part of the series: a forecast twice a day, 100 sample paths each.
models = {"seasonal naive": NaiveSeasonal(K=day), "DLinear": dlinear, "zero-shot": zero_shot, "MSFT": msft}
options = {"start": CONTEXT, "forecast_horizon": HORIZON, "stride": day // 2, "last_points_only": False}
rows = {}
for name, model in models.items():
    naive = name == "seasonal naive"  # has no distribution: its CRPS is its MAE; refitting it recalls the last day
    found = model.historical_forecasts(test, retrain=naive, num_samples=1 if naive else 100, **options)
    rows[name] = [np.mean(metric([test] * len(found), found)) for metric in (mse, mae, mae if naive else mcrps)]
print_table(rows)
history = test.drop_after(found[-1].start_time())
plot_report(f"{args.out}/quickstart_{args.dataset}.png", scaler, test, history, zero_shot, msft, day)
if args.forecast:
    unit = "degrees Celsius" if args.dataset == "sea_temperature" else test.components[0]
    plot_forecast(args.forecast, scaler, test, CONTEXT, msft, day, unit)
