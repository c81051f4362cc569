"""A fit in seconds and a finetuned model, beside zero-shot, DLinear and a seasonal naive forecast.

python examples/01_quickstart.py                                        # hourly departures, bundled, offline
python examples/01_quickstart.py --dataset sea_temperature              # bundled too; calm, so that little helps
python examples/01_quickstart.py --dataset ETTh1 --data ../shared/data
python examples/01_quickstart.py --forecast picture.png                 # a picture of the first forecast alone
"""

import argparse
import time

import numpy as np
from darts.dataprocessing.transformers import Scaler
from darts.metrics import mae, mcrps, mse
from darts.models import DLinearModel, NaiveSeasonal
from darts.utils.likelihood_models.torch import QuantileRegression
from report import plot_forecast, plot_report, print_table
from sklearn.preprocessing import StandardScaler

from darts_msft import MSFTFoundationModel
from darts_msft.datasets import load_dataset

DAY = {"departures": 24, "sea_temperature": 48, "ETTh1": 24, "ETTm1": 96}  # in steps
SEASON = DAY | {"departures": 7 * 24}  # of the naive forecast: flights repeat after a week
UNIT = {"departures": "flights an hour", "sea_temperature": "degrees Celsius"}
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="departures", choices=DAY)
parser.add_argument("--data", help="folder with the ETT files; default: DARTS_MSFT_DATA, else Darts' own download")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--out", default="examples/output", help="folder for the picture and DLinear's checkpoints")
parser.add_argument("--forecast", help="file for a picture of the first forecast alone")
args = parser.parse_args()

# 1. A real series: learn from the first 70 %, choose on the next 10 %, measure on the rest.
CONTEXT, HORIZON = 1024, 96
series = load_dataset(args.dataset, args.data)
first, second = int(0.7 * len(series)), int(0.8 * len(series))
train, validation, test = series[:first], series[first - CONTEXT : second], series[second - CONTEXT :]

# 2. A linear member, solved in closed form, joins the pretrained model's forecasts. `fit` with method="zero_shot" stops
# there; the default method finetunes too. Both keep what is best on the validation part.
shared = {"output_chunk_length": HORIZON, "random_state": 0}
shared["pl_trainer_kwargs"] = {"accelerator": "cpu", "enable_model_summary": False}
ours = {**shared, "input_chunk_length": CONTEXT, "lower": "auto"}  # nothing below 0 where the series never is
zero_shot = MSFTFoundationModel(**ours)  # needs no fit
in_seconds = MSFTFoundationModel(**ours, method="zero_shot")
finetuned = MSFTFoundationModel(**ours, n_epochs=args.epochs)
seconds = {"seasonal naive": 0.0, "zero-shot": 0.0}
for name, model in {"fit in seconds": in_seconds, "finetuned": finetuned}.items():
    begun = time.perf_counter()
    model.fit(train, val_series=validation, verbose=name == "finetuned")
    seconds[name] = time.perf_counter() - begun
    print(f"\n{name}:\n{model.fit_report}")

# DLinear starts from random weights and wants standardised values; the epoch that is best on validation is kept.
scaler = Scaler(StandardScaler())
scaler.fit(train)
keep = {"save_checkpoints": True, "force_reset": True, "work_dir": args.out, "model_name": "DLinear"}
levels = QuantileRegression([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
learn = {"n_epochs": 16 * args.epochs, "likelihood": levels, "shared_weights": True}
dlinear = DLinearModel(input_chunk_length=672, **shared, **keep, **learn)
begun = time.perf_counter()
parts = [scaler.transform(part) for part in (train, validation)]
dlinear.fit(parts[0], val_series=parts[1], stride=5, verbose=False, load_best=True)  # at all times of day too
seconds["DLinear"] = time.perf_counter() - begun

# 3. Backtest on the last part of the series, at all times of day (hourly: a forecast every 11 hours), 200 sample paths.
options = {"start": CONTEXT, "forecast_horizon": HORIZON, "last_points_only": False}
options["stride"] = DAY[args.dataset] // 2 - 1
models = {"seasonal naive": NaiveSeasonal(K=SEASON[args.dataset]), "DLinear": dlinear}
models |= {"zero-shot": zero_shot, "fit in seconds": in_seconds, "finetuned": finetuned}
rows = {}
for name, model in models.items():
    naive = name == "seasonal naive"  # has no distribution: its CRPS is its MAE; refitting it recalls the last season
    known = scaler.transform(test) if name == "DLinear" else test
    found = model.historical_forecasts(known, retrain=naive, num_samples=1 if naive else 200, **options)
    found = [scaler.inverse_transform(one) for one in found] if name == "DLinear" else found
    scores = [np.mean(metric([test] * len(found), found)) for metric in (mse, mae, mae if naive else mcrps)]
    rows[name] = [*scores, seconds[name]]
print_table(rows)
history = test.drop_after(found[-1].start_time())

# 4. Paths can be added up: the total of the next two days, at all airports.
days = 2 * DAY[args.dataset]
totals = in_seconds.predict(days, history, num_samples=500).all_values().sum(axis=(0, 1))
low, middle, high = np.quantile(totals, [0.1, 0.5, 0.9])
came = test.slice_n_points_after(history.end_time() + history.freq, days).values().sum()
print(f"\ntotal of the next two days: {middle:,.0f}, 80 % between {low:,.0f} and {high:,.0f}; came: {came:,.0f}")
plot_report(f"{args.out}/quickstart_{args.dataset}.png", test, history, zero_shot, finetuned, DAY[args.dataset])
if args.forecast:
    unit = UNIT.get(args.dataset, test.components[0])
    plot_forecast(args.forecast, test, CONTEXT, finetuned, DAY[args.dataset], unit)
