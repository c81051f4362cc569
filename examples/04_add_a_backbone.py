"""Finetune an encoder of one's own: the class is in tiny_encoder.py, its weights in a directory.

python examples/04_add_a_backbone.py                    # bundled series, offline, some seconds
"""

import argparse
import json
from pathlib import Path

import torch
from darts.metrics import mae
from safetensors.torch import save_file
from tiny_encoder import TinyEncoder

from darts_msft import MSFTFoundationModel
from darts_msft.backbones import Architecture, register
from darts_msft.datasets import load_departures

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--out", default="examples/output/tiny_encoder", help="folder for the checkpoint")
args = parser.parse_args()

# 1. Say where the class is, and by which fields of config.json its checkpoints are known. A saved model holds the name:
# register before `MSFTFoundationModel.load` too.
register("tiny", Architecture("tiny_encoder:TinyEncoder", ("tiny_width", "tiny_patch", "tiny_layers", "tiny_tokens")))

# 2. A checkpoint is config.json and model.safetensors. These weights are random, so they forecast poorly.
config, folder = {"tiny_width": 32, "tiny_patch": 12, "tiny_layers": 2, "tiny_tokens": 64}, Path(args.out)
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.json").write_text(json.dumps(config))
torch.manual_seed(0)
save_file(TinyEncoder(config).state_dict(), folder / "model.safetensors")

# 3. From here on it is a backbone like any other: every method, several scales, probabilistic forecasts.
series = load_departures()["LGA"][:2000]
train, validation, test = series[:1400], series[1232:1700], series[1532:]
trainer = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}
shared = {"input_chunk_length": 168, "output_chunk_length": 24, "random_state": 0, "pl_trainer_kwargs": trainer}
learn = {"method": "full", "lr_pretrained": 3e-3, "lr_head": 3e-3, "n_epochs": args.epochs}
model = MSFTFoundationModel(**shared, backbone=args.out, num_scales=1, linear_member=False, **learn)
model.fit(train, val_series=validation, stride=5, verbose=False)
print(model.fit_report)
forecasts = model.historical_forecasts(test, forecast_horizon=24, stride=11, retrain=False, last_points_only=False)
print(f"mean absolute error: {sum(mae([test] * len(forecasts), forecasts)) / len(forecasts):.2f} flights an hour")
