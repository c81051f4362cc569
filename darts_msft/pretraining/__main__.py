"""`python -m darts_msft.pretraining --out runs/tiny`: pretrains a small MoiraiModule on synthetic series.

The run resumes when the directory holds one; the averaged weights are in `<out>/export`.
"""

import argparse
import logging
import os
from dataclasses import fields
from pathlib import Path

import torch

from darts_msft.pretraining.train import Pretraining, Settings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m darts_msft.pretraining", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory of the run")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 takes all")
    parser.add_argument("--log-every", type=int, default=100, help="steps between log lines")
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    for field in fields(Settings):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), default=field.default, help="default: %(default)s")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        settings = Settings(**{field.name: getattr(arguments, field.name) for field in fields(Settings)})
    except ValueError as error:
        parser.error(str(error))
    if settings.device.startswith("cuda"):  # same seed, same weights
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # for debugging; slow
    run = Pretraining(settings, arguments.out)
    run.resume()
    run.run(arguments.log_every, arguments.save_every)


if __name__ == "__main__":
    main()
