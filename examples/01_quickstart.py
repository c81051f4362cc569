"""Finetune a pretrained forecaster with MSFT and compare it with zero-shot, DLinear and seasonal naive.

python examples/01_quickstart.py                                        # bundled series, offline
python examples/01_quickstart.py --dataset ETTh1 --data ../shared/data
"""

import argparse

import numpy as np
from darts.dataprocessing.transformers import Scaler
from darts.metrics import mae, mcrps, mse
from darts.models import DLinearModel, NaiveSeasonal
from darts.utils.likelihood_models.torch import QuantileRegression
from report import plot_report, print_table
from sklearn.preprocessing import StandardScaler

from darts_msft import MSFTFoundationModel
from darts_msft.datasets import load_dataset

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="sea_temperature", help="sea_temperature (bundled), ETTh1 or ETTm1")
parser.add_argument("--data", help="folder with the ETT files; default: DARTS_MSFT_DATA, else Darts' own download")
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--out", default="quickstart.png", help="where to save the picture")
args = parser.parse_args()

# 1. A real series: learn from the first 70 %, choose on the next 10 %, measure on the rest.
CONTEXT, HORIZON = 512, 96
day = {"sea_temperature": 48, "ETTh1": 24, "ETTm1": 96}[args.dataset]
series = load_dataset(args.dataset, args.data)
first, second = int(0.7 * len(series)), int(0.8 * len(series))
scaler = Scaler(StandardScaler())
train = scaler.fit_transform(series[:first])
validation = scaler.transform(series[first - CONTEXT : second])
test = scaler.transform(series[second - CONTEXT :])

# 2. The models. All look back 512 steps and keep the epoch that is best on the validation part.
cpu = {"accelerator": "cpu", "enable_model_summary": False}
lengths = {"input_chunk_length": CONTEXT, "output_chunk_length": HORIZON}
shared = {**lengths, "random_state": 0, "pl_trainer_kwargs": cpu}
zero_shot = MSFTFoundationModel(**shared)
msft = MSFTFoundationModel(**shared, n_epochs=args.epochs)
quantiles = QuantileRegression([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
dlinear = DLinearModel(**shared, n_epochs=args.epochs, likelihood=quantiles, save_checkpoints=True, force_reset=True)

# 3. Training: every 8th window. MSFT scores the pretrained model first and never ends worse on the validation part.
msft.fit(train, val_series=validation, stride=8, verbose=True)
dlinear.fit(train, val_series=validation, stride=8, verbose=False, load_best=True)

# 4. Backtest on the last part of the series, a forecast twice a day, 100 sample paths each.
models = {"seasonal naive": NaiveSeasonal(K=day), "DLinear": dlinear, "zero-shot": zero_shot, "MSFT": msft}
options = {"start": CONTEXT, "forecast_horizon": HORIZON, "stride": day // 2, "last_points_only": False}
rows, forecasts = {}, {}
for name, model in models.items():
    naive = name == "seasonal naive"  # has no distribution: its CRPS is its MAE; refitting it recalls the last day
    found = model.historical_forecasts(test, retrain=naive, num_samples=1 if naive else 100, **options)
    metrics = (mse, mae, mae if naive else mcrps)
    forecasts[name] = found
    rows[name] = [np.mean(metric([test] * len(found), found)) for metric in metrics]

# 5. A table, and a picture of the last week.
print_table(rows)
plot_report(args.out, scaler, test, forecasts, msft, day)
