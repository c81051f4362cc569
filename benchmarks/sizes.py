"""Width, depth and patch sizes of the bundled checkpoint: equal processor time for each, on synthetic series alone.

    python -m benchmarks sizes [--sizes 96x4 128x6 192x6 --minutes 8]
    python -m benchmarks sizes --sizes 128x6 --patch-shares 16:0.5,32:0.5 --minutes 12 --keep runs/p16-32

Each size trains on one thread until the same processor time is spent, decay of the rate included, and is scored on the
held-back synthetic series; then the size of its weights and the time of its forecasts are measured as
`python -m benchmarks checkpoint speed` does. Every size adds an entry to `results/sizes.json` when all of it is there.

Held-back losses of other `--patch-shares` are on other batches, so these can't stand side by side. `--keep` leaves the
checkpoint for `python -m benchmarks checkpoint choose`, whose entry has the same hash of the weights.

The shares of the patch sizes are in `pretraining.patch_shares`, in older entries in `patch_size_shares`; where neither
is there, they were 8:0.2,16:0.4,32:0.4. Entries from before `seconds_by_patch_size` counted the steps beforehand, by
the time of twelve of them: what they got is in their `processor_seconds`, validation included.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.checkpoint import speed, weights_hash
from benchmarks.errors import Misuse
from benchmarks.run.listings import append, read
from benchmarks.run.processes import quiet
from benchmarks.run.provenance import provenance
from darts_msft.pretraining.objective import parse_shares
from darts_msft.pretraining.train import Pretraining, Settings

RESULTS = Path(__file__).parent / "results" / "sizes.json"
SETTINGS: dict[str, Any] = {"precision": "bfloat16", "warmup": 100}  # beside width and layers
ENDLESS = 10**9  # steps: time ends the run


class TimedPretraining(Pretraining):
    """A run that is over when its processor time is spent, however many steps that makes.

    The rate falls over the last of the time as it otherwise does over the last of the steps. Fixing the steps
    beforehand would give sizes unequal time: batches differ in length, and the machine's speed from minute to minute.
    """

    def __init__(self, settings: Settings, directory: Path, seconds: float) -> None:
        super().__init__(settings, directory)
        self.budget, self.spent = seconds, 0.0

    def schedule(self) -> float:
        return min(super().schedule(), (1 - self.spent / self.budget) / self.settings.decay)

    def train(self) -> None:
        """Making the batches counts, validation and files don't; the last step may end a little too late."""
        begin = time.process_time()
        for task in self.batches():
            self.train_step(task)
            self.spent = time.process_time() - begin
            if self.spent >= self.budget:
                return


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(size: str, minutes: float, threads: int, shares: str, folder: Path) -> dict[str, Any]:
    """One size's entry; `threads` are for the forecasts; the run is left in `folder`."""
    width, layers = shape_of(size)
    settings = Settings(**SETTINGS, width=width, layers=layers, patch_shares=shares, steps=ENDLESS)
    run = TimedPretraining(settings, folder, minutes * 60)
    with one_thread():
        run.train()
        loss = run.validation_loss(run.averaged_backbones)
    run.save()
    checkpoint = str(folder / "export")
    return {
        "size": size,
        "pretraining": {name: value for name, value in asdict(settings).items() if name != "steps"},
        "parameters": sum(p.numel() for p in run.module.parameters()),
        "steps": run.step,
        "processor_seconds": run.spent,
        "validation_loss": loss,
        "weights": weights_hash(checkpoint),
        **speed(checkpoint, threads),
    }


# ------------------------------------------------------------------------------------------------------- command line


def shape_of(size: str) -> tuple[int, int]:
    """Width and layers of "96x4"; a ValueError where no MoiraiModule has them."""
    if not (found := re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", size)):
        raise ValueError(f"{size!r} is no size; give width x layers, such as 96x4")
    width, layers = int(found[1]), int(found[2])
    Settings(width=width, layers=layers)  # knows which widths there are
    return width, layers


def checked(check: Callable[[str], object]) -> Callable[[str], str]:
    """The word itself, for argparse, if `check` accepts it; argparse would swallow the text of its ValueError."""

    def word_itself(word: str) -> str:
        try:
            check(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return word

    return word_itself


def minutes(word: str) -> float:
    value = float(word)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{word} is no processor time; give minutes above 0")
    return value


def run(arguments: argparse.Namespace) -> None:
    """Measures one size after the other, and keeps each one's entry as soon as it is whole."""
    read(arguments.results)  # a file that can't be added to is noticed before the first size
    for size in arguments.sizes:
        if arguments.keep is not None and (arguments.keep / size).exists():
            raise Misuse(f"{arguments.keep / size} exists; give another folder to --keep")
    for size in dict.fromkeys(arguments.sizes):
        entry = {**provenance(), "minutes": arguments.minutes}
        with tempfile.TemporaryDirectory() as folder:
            entry |= measure(size, arguments.minutes, arguments.threads, arguments.patch_shares, Path(folder))
            if arguments.keep is not None:
                shutil.copytree(Path(folder) / "export", arguments.keep / size)
        append(arguments.results, entry)
        print(json.dumps(entry), flush=True)


def parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks sizes", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--sizes", nargs="+", type=checked(shape_of), default=["96x4", "128x6", "192x6"], help="width x layers"
    )
    parser.add_argument(
        "--patch-shares",
        type=checked(parse_shares),
        default=Settings.patch_shares,
        metavar="P:S,...",
        help="share of the batches by patch size, such as 16:0.5,32:0.5; default: %(default)s",
    )
    parser.add_argument("--keep", type=Path, help="new folder for the checkpoint of each size; default: none is kept")
    parser.add_argument("--minutes", type=minutes, default=8.0, help="processor time for each size")
    parser.add_argument("--threads", type=int, default=2, help="of the forecasts that are timed; training has one")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file that the entries are added to")
    return parser.parse_args(words)


def main(words: Sequence[str]) -> None:
    quiet()
    run(parse(words))
