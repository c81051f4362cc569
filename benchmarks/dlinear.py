"""DLinear as a baseline with the care that ours gets: look-back and learning rate chosen on the validation part.

Darts' `DLinearModel` with one set of weights for all variables, as in the paper (Zeng et al., AAAI 2023): kernel 25,
squared error, Adam, batches of 32 windows, a learning rate halved after each epoch, and the epoch with the lowest
validation loss kept. The paper's MSE on ETTh1 at horizon 96 is 0.375, with a look-back of 336 and a rate of 0.005.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch
from darts.models import DLinearModel
from pytorch_lightning.callbacks import EarlyStopping

from benchmarks.parts import Data, score

LOOK_BACKS = (96, 336, 512)
LEARNING_RATES = (1e-4, 1e-3, 5e-3)
TRAIN_STRIDE = {"ETTh1": 1, "ETTm1": 4, "Weather": 4}  # steps between training windows: an hour, but for Weather
EPOCHS, PATIENCE, DECAY, BATCH = 10, 3, 0.5, 32


def fit(data: Data, horizon: int, look_back: int, rate: float, train_stride: int) -> DLinearModel:
    """One DLinear, at its best epoch; `train_stride` also spaces the validation windows that find it."""
    with tempfile.TemporaryDirectory() as folder:
        model = DLinearModel(
            look_back,
            horizon,
            shared_weights=True,
            kernel_size=25,
            batch_size=BATCH,
            n_epochs=EPOCHS,
            loss_fn=torch.nn.MSELoss(),
            optimizer_cls=torch.optim.Adam,
            optimizer_kwargs={"lr": rate},
            lr_scheduler_cls=torch.optim.lr_scheduler.ExponentialLR,
            lr_scheduler_kwargs={"gamma": DECAY},
            random_state=0,
            save_checkpoints=True,
            work_dir=folder,
            model_name="dlinear",
            pl_trainer_kwargs={
                "accelerator": "cpu",
                "enable_model_summary": False,
                "enable_progress_bar": False,
                "callbacks": [EarlyStopping("val_loss", patience=PATIENCE)],
            },
        )
        validation = data.series("validation", look_back)
        model.fit(data.series("train"), val_series=validation, stride=train_stride, load_best=True)
    return model


def best(data: Data, horizon: int, stride: int) -> tuple[DLinearModel, dict[str, Any]]:
    """The model with the lowest validation MSE, and what was tried; `stride` is that of the validation windows."""
    train_stride = TRAIN_STRIDE.get(data.name, 1)
    tried, kept = [], None
    for look_back in LOOK_BACKS:
        for rate in LEARNING_RATES:
            begin = time.perf_counter()
            model = fit(data, horizon, look_back, rate, train_stride)
            mse = score(model, data, "validation", horizon, stride)["mse"]
            row = {"look_back": look_back, "lr": rate, "validation_mse": mse, "seconds": time.perf_counter() - begin}
            if kept is None or mse < kept[1]["validation_mse"]:
                kept = model, row
            tried.append(row)
    return kept[0], {**kept[1], "train_stride": train_stride, "validation_stride": stride, "tried": tried}
