"""One fit by several processes that share its batches (Lightning's DDP), then forecasts by the first of them.

python examples/09_several_processes.py                                  # two processes on the CPU
python examples/09_several_processes.py --accelerator gpu --devices 4    # as many GPUs; one is enough without this

Lightning starts this file again for each further process, so every line runs in all of them unless it is guarded.
Tried with two processes on a CPU, where the fit trains as one process does; on several GPUs it was not tried.
"""

import argparse
import sys
from pathlib import Path

from darts.metrics import mae

from darts_msft import MSFTFoundationModel
from darts_msft.datasets import load_departures

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--accelerator", default="cpu", help="cpu or gpu")
parser.add_argument("--devices", type=int, default=2, help="how many processes: of a CPU, or GPUs, one for each")
parser.add_argument("--batch", type=int, default=32, help="windows a training step, of all processes together")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--windows", type=int, default=512, help="training windows an epoch, of all processes together")
parser.add_argument("--out", default="examples/output/several_processes.pt", help="file for the model")
args = parser.parse_args()

# 1. Every process has the same series; Lightning gives each its share of the windows.
CONTEXT, HORIZON = 512, 24
series = load_departures()
train, validation, test = series[:-1400], series[-1400 - CONTEXT : -700], series[-700:]

# 2. The batch size is that of one process.
model = MSFTFoundationModel(
    CONTEXT,
    HORIZON,
    n_epochs=args.epochs,
    batch_size=args.batch // args.devices,
    windows_per_epoch=args.windows,
    random_state=0,
    pl_trainer_kwargs={
        "accelerator": args.accelerator,
        "devices": args.devices,
        "strategy": "ddp" if args.devices > 1 else "auto",
        "enable_progress_bar": False,
    },
)
model.fit(train, val_series=validation)

# 3. All processes have the same state now. All must call `save`, for Lightning waits for them; then the first goes on.
Path(args.out).parent.mkdir(parents=True, exist_ok=True)
model.save(args.out)
print(
    f"process {model.trainer.global_rank + 1} of {model.trainer.world_size} kept: {model.fit_report.kept}", flush=True
)
if not model.trainer.is_global_zero:
    sys.exit()

# 4. A forecast needs one process: the saved model is loaded for one device.
print(model.fit_report)
one = {"accelerator": args.accelerator, "devices": 1, "enable_progress_bar": False}
alone = MSFTFoundationModel.load(args.out, pl_trainer_kwargs=one)
daily = {"start": CONTEXT, "stride": HORIZON, "forecast_horizon": HORIZON, "last_points_only": False}
found = alone.historical_forecasts(test, retrain=False, **daily)
print(f"mean absolute error: {sum(mae(test, one) for one in found) / len(found):.2f} flights an hour")
