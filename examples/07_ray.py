"""Forecasts of many series on Ray: a pool of actors, each with one model, takes the files of a Parquet data set.

python examples/07_ray.py                      # 40 made-up series in 4 files, two local workers
python examples/07_ray.py --lose-a-worker      # one dies on the way: its file is forecast again
On a cluster: `ray.init("auto")`, a folder that all machines see, and as many `--workers` as there are GPUs or cores.

`pip install "ray[data]"` first. A file must hold its series whole.
"""

import argparse
import os
import signal
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import ray
from darts import TimeSeries

from darts_msft import MSFTFoundationModel

CONTEXT, HORIZON, QUANTILES = 112, 14, (0.1, 0.5, 0.9)


def write_files(folder: Path, series: int, files: int) -> None:
    """Daily sales of shops, `series` of them, in `files` Parquet files."""
    rng, days = np.random.default_rng(0), pd.date_range(end="2024-12-31", periods=400, freq="D")
    for number, shops in enumerate(np.array_split(np.arange(series), files)):
        week = [1 + 0.5 * np.sin(2 * np.pi * (np.arange(400) + shop) / 7) for shop in shops]
        sales = [10.0 ** (shop % 4) * one * rng.lognormal(0, 0.1, 400) for shop, one in zip(shops, week, strict=True)]
        parts = [
            pd.DataFrame({"shop": shop, "day": days, "sales": one}) for shop, one in zip(shops, sales, strict=True)
        ]
        pd.concat(parts).to_parquet(folder / f"part_{number}.parquet", index=False)


def series_of(table: pd.DataFrame) -> dict[int, TimeSeries]:
    every = TimeSeries.from_group_dataframe(table, "shop", "day", "sales", freq="D")
    return {
        int(one.static_covariates["shop"].iloc[0]): one.with_static_covariates(None).astype(np.float32) for one in every
    }


def forecast(model: MSFTFoundationModel, table: pd.DataFrame) -> pd.DataFrame:
    """A row for each series and day, with its quantiles."""
    known = series_of(table)
    found = model.predict_quantiles(HORIZON, list(known.values()), QUANTILES, verbose=False)
    columns = [f"q{level}" for level in QUANTILES]
    parts = [
        one.to_dataframe().set_axis(columns, axis=1).assign(shop=shop) for shop, one in zip(known, found, strict=True)
    ]
    return pd.concat(parts).reset_index(names="day")


class Forecaster:
    """An actor: reads the model once, then forecasts one file after the other."""

    def __init__(self, model: str, dies_once: str | None) -> None:
        self.model, self.dies_once = MSFTFoundationModel.load(model), dies_once

    def __call__(self, table: pd.DataFrame) -> pd.DataFrame:
        if self.dies_once and not os.path.exists(self.dies_once):
            Path(self.dies_once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return forecast(self.model, table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=40)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--lose-a-worker", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sales").mkdir()
        write_files(folder / "sales", args.series, args.files)
        table = pd.read_parquet(folder / "sales")

        # 1. One fit, in this process, saved with its weights.
        quiet = {"accelerator": "cpu", "enable_progress_bar": False}
        model = MSFTFoundationModel(CONTEXT, HORIZON, method="zero_shot", random_state=0, pl_trainer_kwargs=quiet)
        every = list(series_of(table).values())
        model.fit([one[:-56] for one in every], val_series=[one[-56 - CONTEXT :] for one in every])
        model.save(str(folder / "model.pt"))

        # 2. The pool: a task is a file, and one whose worker was lost goes to another.
        ray.init(num_cpus=args.workers + 1, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
        ray.data.DataContext.get_current().enable_progress_bars = False
        files = ray.data.read_parquet(str(folder / "sales"), override_num_blocks=args.files)
        dies_once = str(folder / "died") if args.lose_a_worker else None
        told = files.map_batches(
            Forecaster,
            fn_constructor_args=(str(folder / "model.pt"), dies_once),
            batch_size=None,  # whole files
            batch_format="pandas",
            concurrency=args.workers,
            num_cpus=1,
        )
        told = pd.DataFrame(told.take_all())
        ray.shutdown()

        # 3. The same as in this process.
        own = forecast(model, table)
        keys, columns = ["shop", "day"], [f"q{level}" for level in QUANTILES]
        both = own.merge(told, on=keys, suffixes=("", "_ray"), validate="one_to_one")
        apart = np.abs(both[columns].to_numpy() / both[[f"{one}_ray" for one in columns]].to_numpy() - 1).max()
        print(f"{len(told)} rows of {told['shop'].nunique()} series by {args.workers} workers", end="")
        print(f"{', one was lost' if args.lose_a_worker else ''}; from this process they differ by {apart:.1e}")
        if len(both) != len(own) or apart > 1e-6:
            raise SystemExit("the workers' forecasts are others")


if __name__ == "__main__":
    main()
