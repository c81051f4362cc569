"""One fit for many series of different lengths, forecasts in batches, and a table of where the fit helped.

python examples/06_many_series.py                 # 1,000 shops, made up, minutes on two cores
python examples/06_many_series.py --series 20
python examples/06_many_series.py --parquet sales.parquet --group shop --time day --value sales --frequency D
"""

import argparse

import numpy as np
import pandas as pd
from darts import TimeSeries

from darts_msft import MSFTFoundationModel

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--series", type=int, default=1000, help="how many to make up")
parser.add_argument("--parquet", help="a long table instead: a row for each series and time")
parser.add_argument("--group", default="shop", help="its column that names the series")
parser.add_argument("--time", default="day", help="its column of times")
parser.add_argument("--value", default="sales", help="its column of values")
parser.add_argument("--frequency", default="D", help="the step of its times")
parser.add_argument("--context", type=int, default=112)
parser.add_argument("--horizon", type=int, default=14)
parser.add_argument("--finetune", action="store_true", help="train too: minutes more")
parser.add_argument("--out", help="file for the forecasts (.parquet)")
args = parser.parse_args()


def made_up(count: int) -> pd.DataFrame:
    """Daily sales of shops of very different sizes, open for 200 to 900 days, with weeks, trends and noise."""
    rng = np.random.default_rng(0)
    parts = []
    for shop in range(count):
        days, level = int(rng.integers(200, 900)), 10 ** rng.uniform(0, 4)
        time = np.arange(days)
        week = 1 + rng.uniform(0, 0.6) * np.sin(2 * np.pi * (time + rng.integers(7)) / 7)
        trend = 1 + rng.normal(0, 0.3) * time / days
        sales = level * week * trend * rng.lognormal(0, 0.15, days)
        dates = pd.date_range(end="2024-12-31", periods=days, freq="D")
        parts.append(pd.DataFrame({"shop": f"shop {shop}", "day": dates, "sales": sales}))
    return pd.concat(parts, ignore_index=True)


# 1. A series for each group; shorter ones than context and horizon can't be learned from, but can be forecast.
table = pd.read_parquet(args.parquet) if args.parquet else made_up(args.series)
every = TimeSeries.from_group_dataframe(
    table, args.group, args.time, args.value, freq=args.frequency, fill_missing_dates=True
)
names = [str(one.static_covariates[args.group].iloc[0]) for one in every]
every = [one.with_static_covariates(None).astype(np.float32) for one in every]
held = 3 * args.horizon
long = [number for number, one in enumerate(every) if len(one) >= 2 * (args.context + held)]
print(
    f"{len(every)} series, {min(map(len, every))} to {max(map(len, every))} steps; {len(long)} are long enough to fit"
)

# 2. One fit for all. Each series counts alike in the score, whatever its size.
model = MSFTFoundationModel(
    args.context,
    args.horizon,
    method="msft" if args.finetune else "zero_shot",
    n_epochs=3,
    batch_size=256,
    lower="auto",
    random_state=0,
    pl_trainer_kwargs={"accelerator": "cpu"},
)
model.fit([every[one][:-held] for one in long], val_series=[every[one][-held - args.context :] for one in long])
print(model.fit_report)

# 3. Where it helped: scores of each series' last weeks, before (the pretrained model) and after.
told = model.fit_report.per_series.dropna(subset=["kept"])
told[args.group] = [names[long[number]] for number in told["series"]]
print(f"\nbetter for {(told['ratio'] < 1).mean():.0%} of the {len(told)} series that were scored; most and least:")
print(
    told.sort_values("ratio")[[args.group, "naive", "before", "kept", "ratio"]]
    .iloc[[0, 1, -2, -1]]
    .to_string(index=False)
)

# 4. Forecasts of all series, in batches of `batch_size`, with a bar.
usable = [number for number, one in enumerate(every) if len(one) >= args.context]
forecasts = model.predict_quantiles(args.horizon, [every[number] for number in usable])
found = pd.concat(
    [
        one.to_dataframe().set_axis(["q0.1", "q0.5", "q0.9"], axis=1).assign(**{args.group: names[number]})
        for number, one in zip(usable, forecasts, strict=True)
    ]
)
print(f"\nforecast {len(usable)} series, {len(every) - len(usable)} are too short:\n{found.head(3).round(1)}")
if args.out:
    found.reset_index(names=args.time).to_parquet(args.out)
