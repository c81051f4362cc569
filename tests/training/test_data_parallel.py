"""Two processes that share the batches train as one process does with the whole batch."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from child_process import run_in_child
from model_fixtures import TRAINER, Order, changed, make_model, parameters_snapshot, values_of, wave

from darts_msft import MSFTFoundationModel

BATCH, EPOCHS = 16, 2  # the batch is over all processes
TRAIN, VAL = 119, 61  # 80 and 22 windows; of an odd number two processes see one window twice


def fit(checkpoint: str, folder: str, method: str, devices: int, seed: int) -> MSFTFoundationModel:
    """Fits with as many processes as `devices`, which share the batches; writes the order of the windows."""
    order = Order()
    trainer = {"devices": devices, "callbacks": [order], **({"strategy": "ddp"} if devices > 1 else {})}
    settings = {
        "method": method,
        "num_scales": None,
        "linear_member": method == "lora",
        "lr_lora": 1e-3,
        "n_epochs": EPOCHS,
        "random_state": seed,
    }
    model = make_model(checkpoint, trainer=trainer, batch_size=BATCH // devices, **settings)
    model.fit(wave(TRAIN), val_series=wave(VAL, seed=1))
    np.save(f"{folder}/order_{model.trainer.global_rank}.npy", order.seen)
    return model


def share(checkpoint: str, folder: str, port: int, rank: int) -> None:
    """One of the two processes: a fit with one seed, and one where each has a seed of its own, as without any."""
    # a seed that `seed_everything` left, as neuralforecast's models do: Lightning sets it again where DDP begins
    os.environ |= {"MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "PL_GLOBAL_SEED": "1"}
    model = fit(checkpoint, f"{folder}/seeded", "msft", 2, seed=0)
    np.savez(f"{folder}/end_{rank}.npz", **parameters_snapshot(model))
    model.save(f"{folder}/model_{rank}.pt", clean=True)  # Lightning: in every process
    fit(checkpoint, f"{folder}/apart", "lora", 2, seed=rank)


@pytest.fixture(scope="module")
def two_processes(tiny_moirai: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that both wrote to."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("seeded", "apart"):
        (folder / name).mkdir()
    run = partial(run_in_child, share, tiny_moirai, str(folder), 20_000 + os.getpid() % 20_000)
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(run, (0, 1))) == [0, 0]
    return folder


def windows_of(folder: Path, processes: int) -> list[list[float]]:
    """By epoch, the first values of the windows that all processes saw, sorted."""
    epochs = np.concatenate([np.load(folder / f"order_{rank}.npy") for rank in range(processes)], axis=1)
    return np.sort(epochs, axis=1).tolist()


def test_two_processes_forecast_as_one(tiny_moirai: str, two_processes: Path, tmp_path: Path) -> None:
    """Parameters and forecasts; scores and stacked weights are of samples, whose noise goes by batch."""
    alone = fit(tiny_moirai, str(tmp_path), "msft", 1, seed=0)
    shared = MSFTFoundationModel.load(str(two_processes / "model_0.pt"), TRAINER)
    assert windows_of(tmp_path, 1) == windows_of(two_processes / "seeded", 2)
    assert alone.fit_report.kept == shared.fit_report.kept == "epoch 2"
    assert alone.fit_report.moved == pytest.approx(shared.fit_report.moved, rel=1e-2)
    assert min(shared.fit_report.moved.values()) > 0
    end = parameters_snapshot(alone)
    for name, value in parameters_snapshot(shared).items():
        if "omega" not in name:
            np.testing.assert_allclose(value, end[name], atol=1e-4, err_msg=name)
    assert changed(*(dict(np.load(two_processes / f"end_{rank}.npz")) for rank in (0, 1))) == set()
    forecasts = [values_of(one.scale_forecasts(wave())) for one in (alone, shared)]
    np.testing.assert_allclose(forecasts[1], forecasts[0], atol=1e-3)
    for ours, expected in zip(shared.candidates, alone.candidates, strict=True):
        assert ours.label == expected.label
        assert ours.score == pytest.approx(expected.score, rel=0.05)


def test_processes_without_a_seed_agree_on_one_order(two_processes: Path) -> None:
    once = sorted(wave(TRAIN).values()[:80, 0].tolist())
    assert windows_of(two_processes / "apart", 2) == [once] * EPOCHS
