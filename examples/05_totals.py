"""Totals and peaks of the next two days with their intervals, from sample paths that can be added up.

python examples/05_totals.py
python examples/05_totals.py --dataset sea_temperature --picture paths.png   # 20 paths, beside independent steps
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from darts import TimeSeries

from darts_msft import MSFTFoundationModel
from darts_msft.datasets import load_dataset

STEPS = {"departures": 48, "sea_temperature": 96}  # two days
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="departures", choices=STEPS)
parser.add_argument("--picture", help="file for a picture of 20 paths")
args = parser.parse_args()

# 1. A fit of seconds; its validation part also says how the errors of different steps and components go together.
CONTEXT, HORIZON = 1024, STEPS[args.dataset]
series = load_dataset(args.dataset)
first, second = int(0.7 * len(series)), int(0.85 * len(series))
settings = {"input_chunk_length": CONTEXT, "output_chunk_length": HORIZON, "method": "zero_shot", "random_state": 0}
model = MSFTFoundationModel(**settings, lower="auto")
model.fit(series[:first], val_series=series[first - CONTEXT : second], verbose=False)

# 2. 500 paths. What is of interest is computed for each path, then its quantiles are taken.
known, truth = series[:second], series[second : second + HORIZON]
paths = model.predict(HORIZON, known, num_samples=500)


def told(of_paths: np.ndarray, of_truth: float) -> str:
    """The middle and the 80 % interval of the last axis, and what came."""
    low, middle, high = np.quantile(of_paths, [0.1, 0.5, 0.9], axis=-1)
    return f"{middle:10,.1f}   {low:10,.1f} to {high:,.1f}   came: {of_truth:,.1f}"


drawn, came = paths.all_values(), truth.values()  # (steps, components, samples), (steps, components)
for number, component in enumerate(series.components):
    print(f"{component}, sum of two days:  {told(drawn[:, number].sum(axis=0), came[:, number].sum())}")
    print(f"{component}, largest value:    {told(drawn[:, number].max(axis=0), came[:, number].max())}")
if len(series.components) > 1:
    print(f"all, sum of two days:  {told(drawn.sum(axis=(0, 1)), came.sum())}")


def draw(axis: plt.Axes, forecast: TimeSeries, title: str) -> None:
    """20 paths of the first component, and what came."""
    axis.plot(forecast.time_index, forecast.all_values()[:, 0, :20], color="C0", alpha=0.4, linewidth=0.8)
    axis.plot(truth.time_index, came[:, 0], color="black", label="came")
    axis.set_title(title)
    axis.legend()


if args.picture:
    alone = MSFTFoundationModel(**settings, lower="auto", sample_dependence="independent")
    alone.fit(series[:first], val_series=series[first - CONTEXT : second], verbose=False)
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True, layout="constrained")
    draw(axes[0], alone.predict(HORIZON, known, num_samples=500), 'sample_dependence="independent"')
    draw(axes[1], paths, 'sample_dependence="copula", the default')
    for axis in axes:
        axis.tick_params(axis="x", rotation=30)
    figure.savefig(args.picture, dpi=110)
