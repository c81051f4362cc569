"""What each scale sees of a long series, what each says, and which of them carries which step of the forecast.

python examples/08_look_inside.py                        # half-hourly sea temperatures, without a fit
python examples/08_look_inside.py --picture scales.png
"""

import argparse

import matplotlib

matplotlib.use("Agg")
from darts_msft import MSFTFoundationModel
from darts_msft.datasets import load_sea_temperature

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--context", type=int, default=4096, help="steps of half an hour")
parser.add_argument("--horizon", type=int, default=96)
parser.add_argument("--picture", help="file for a picture")
args = parser.parse_args()

# 1. Scale 0 sees the last 1,024 steps, each coarser one twice as many; here the pretrained model as it is.
series = load_sea_temperature()[:6000]
model = MSFTFoundationModel(args.context, args.horizon, random_state=0)
print(model.summary())

# 2. `pull` is by how much a member moves the point forecast, in degrees; the pulls of a step add up to 0.
told = model.explain(series)
told["day"] = (told["time"] - told["time"].min()).dt.days + 1
print(told.pivot_table(index="day", columns="member", values=["weight", "pull"]).round(3).to_string())

if args.picture:
    axes = model.plot_scales(series)
    axes[0].figure.savefig(args.picture, dpi=110)
