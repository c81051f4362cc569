"""Every way of finetuning the same pretrained model, with the same budget: a table and a bar chart.

python examples/02_compare_methods.py --data ../shared/data                  # ETTh1, three seeds
python examples/02_compare_methods.py --dataset sea_temperature --seeds 0    # bundled series, offline

A file of results that is there is never changed: give another --out to measure again.
"""

import argparse
import hashlib
import json
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from compare_report import commit, plot_methods, print_methods, write
from darts.dataprocessing.transformers import Scaler
from darts.metrics import mae, mcrps, mse
from sklearn.preprocessing import StandardScaler

from darts_msft import MSFTFoundationModel
from darts_msft.backbones import describe
from darts_msft.datasets import load_dataset
from darts_msft.methods import METHODS
from darts_msft.storage.weights import load_state, state_hash

PARTS = {"ETTh1": (8640, 11520, 14400), "ETTm1": (34560, 46080, 57600), "sea_temperature": (13474, 15399, 19249)}
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="ETTh1", choices=PARTS)
parser.add_argument("--data", help="folder with the ETT files; default: DARTS_MSFT_DATA, else Darts' own download")
parser.add_argument("--backbone", default="moirai-tiny")
parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
parser.add_argument("--epochs", type=int, default=6)
parser.add_argument("--stride", type=int, default=16, help="steps between training windows")
parser.add_argument("--test-stride", type=int, default=12, help="steps between test windows")
parser.add_argument("--out", type=Path, default=Path("examples/output"), help="folder for the results and the chart")
args = parser.parse_args()
file = args.out / f"methods_{args.dataset}.json"
if file.exists():
    parser.error(f"{file} is there, and results are never overwritten; give another --out, or move it away")

# 1. Train, validation and test parts; standardised with training statistics.
CONTEXT, HORIZON = 512, 96
series = load_dataset(args.dataset, args.data)
first, second, third = PARTS[args.dataset]
scaler = Scaler(StandardScaler())
train = scaler.fit_transform(series[:first])
validation = scaler.transform(series[first - CONTEXT : second])
test = scaler.transform(series[second - CONTEXT : third])

made = {
    "made": datetime.now(UTC).isoformat(timespec="seconds"),
    "commit": commit(),
    "versions": {name: version(name) for name in ("darts-msft", "darts", "torch")},
    "data_hash": hashlib.sha256(np.ascontiguousarray(series.values())).hexdigest(),
    "weights": state_hash(load_state(describe(args.backbone)[0])),
    "settings": {name: value for name, value in vars(args).items() if name != "out"},
}
args.out.mkdir(parents=True, exist_ok=True)

# 2. Each method trains on the same windows for as many epochs, at its own default rates, and returns its best epoch.
rows = []
for method in args.methods:
    for seed in args.seeds:
        model = MSFTFoundationModel(
            CONTEXT,
            HORIZON,
            backbone=args.backbone,
            method=method,
            n_epochs=args.epochs,
            random_state=seed,
            pl_trainer_kwargs={"accelerator": "cpu", "enable_model_summary": False, "enable_progress_bar": False},
        )
        begin = time.perf_counter()
        model.fit(train, val_series=validation, stride=args.stride)
        row = {"method": method, "seed": seed, "seconds": time.perf_counter() - begin}
        report = model.fit_report  # None: there was nothing to train
        row["trained"] = 0 if report is None else report.trained_parameters
        row["validation"] = None if report is None else report.best
        row["before"] = None if report is None else report.before  # that of the zero-shot forecast, if it is pretrained

        # 3. The test part, through Darts: 100 sample paths a forecast; MSE and MAE are those of the median.
        found = model.historical_forecasts(
            test,
            start=CONTEXT,
            forecast_horizon=HORIZON,
            stride=args.test_stride,
            retrain=False,
            last_points_only=False,
            num_samples=100,
        )
        for name, metric in (("MSE", mse), ("MAE", mae), ("CRPS", mcrps)):
            row[name] = float(np.mean(metric([test] * len(found), found)))
        rows.append(row)
        write(file, json.dumps({**made, "rows": rows}, indent=1))
        print(json.dumps(row), flush=True)

print_methods(rows)
plot_methods(file.with_suffix(".png"), rows)
