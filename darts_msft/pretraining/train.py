"""The pretraining run: resumable, seeded, logged; writes a checkpoint in MoiraiModule's own layout."""

from __future__ import annotations

import ast
import copy
import hashlib
import itertools
import json
import logging
import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
import uni2ts
from torch import Tensor
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from uni2ts.distribution import MixtureOutput, StudentTOutput
from uni2ts.model.moirai.module import MoiraiModule

from darts_msft.backbones.moirai import MoiraiBackbone
from darts_msft.pretraining.muon import GroupedMuon
from darts_msft.pretraining.objective import (
    CLEAR_BATCHES,
    MAX_TOKENS,
    Task,
    Tasks,
    horizon_loss,
    parse_shares,
)
from darts_msft.pretraining.settings import VALIDATION_SEED, Settings

logger = logging.getLogger(__name__)

VALIDATION_BATCHES, VALIDATION_TOKENS = 24, 4096  # the same series, whatever the tokens of a step
FREE = ("steps", "decay", "seconds", "device", "workers")  # settings that a resumed run may change
PACKAGE = Path(__file__).resolve().parents[1]
CODE = ("pretraining/*.py", "backbones/base.py", "backbones/moirai.py", "backbones/moirai_mixture.py")  # run in a step


def build_module(settings: Settings) -> MoiraiModule:
    """A small MoiraiModule; three Student-t components, which suit standardised series of any sign."""
    return MoiraiModule(
        distr_output=MixtureOutput([StudentTOutput(), StudentTOutput(), StudentTOutput()]),
        d_model=settings.width,
        num_layers=settings.layers,
        patch_sizes=tuple(parse_shares(settings.patch_shares)),
        max_seq_len=MAX_TOKENS,  # longer sequences are refused: it never saw any
        attn_dropout_p=0.0,
        dropout_p=0.0,
    )


def warmed_ema(decay: float) -> Callable[[PARAM_LIST, PARAM_LIST, Tensor | int], None]:
    """An exponential moving average, for `AveragedModel`, that is not ruled by its start.

    After n updates the decay is min(decay, (1 + n) / (10 + n)): the average reaches over the last tenth of the steps,
    until that is as long as the decay asked for reaches.
    """

    def average(averaged: PARAM_LIST, current: PARAM_LIST, updates: Tensor | int) -> None:
        n = int(updates)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, updates)

    return average


def backbones_of(module: MoiraiModule) -> dict[int, MoiraiBackbone]:
    return {patch: MoiraiBackbone(module, patch) for patch in module.patch_sizes}


def make_optimizers(module: MoiraiModule, settings: Settings) -> tuple[torch.optim.Optimizer, ...]:
    """Muon (Jordan et al. 2024) for the encoder layers' matrices, AdamW for all else."""
    if not hasattr(torch.optim, "Muon"):
        raise ImportError(
            f"pretraining needs torch 2.9 or newer, for torch.optim.Muon; this is {torch.__version__}; "
            "install a newer one: pip install -U torch"
        )
    hidden = [p for name, p in module.named_parameters() if p.ndim == 2 and name.startswith("encoder.layers.")]
    known = {id(parameter) for parameter in hidden}
    others = [p for p in module.parameters() if id(p) not in known]
    decay = settings.weight_decay
    muon = GroupedMuon(hidden, settings.hidden_learning_rate, decay)
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return muon, torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))


class _Statements(ast.NodeTransformer):
    """Drops docstrings and other lone constants."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) else node


def fingerprint() -> dict[str, str]:
    """What decides a run's batches and steps besides its settings: packages' versions, a hash of each source file.

    Comments, docstrings and layout don't count; any other edit of these files does, also a harmless one. (A hash of
    batches would differ from one processor to another, and would miss what only rare rows or the optimisers show.)
    """
    found = {"python": ".".join(platform.python_version_tuple()[:2])}  # of another one, the syntax trees differ
    for package in (np, scipy, torch, uni2ts):
        found[package.__name__] = str(package.__version__).split("+")[0]  # torch 2.13.0+cpu: the device may change
    for path in sorted(path for pattern in CODE for path in PACKAGE.glob(pattern) if path.name != "__main__.py"):
        statements = ast.dump(_Statements().visit(ast.parse(path.read_text(encoding="utf-8"))))
        found[path.relative_to(PACKAGE).as_posix()] = hashlib.sha256(statements.encode()).hexdigest()[:12]
    return found


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Both values, by name, where they are not the same; None stands for a name that is not there."""
    names = [*now, *(name for name in saved if name not in now)]
    return {name: (saved.get(name), now.get(name)) for name in names if saved.get(name) != now.get(name)}


def share_of_rates(settings: Settings, step: int) -> float:
    """Warm-up, a constant stretch, and a linear decay to zero."""
    left = (settings.steps - step) / max(1, round(settings.steps * settings.decay))
    return min(1.0, (step + 1) / max(1, settings.warmup), left)


class Pretraining:
    """A run in `directory`: `state.pt` to resume from, `log.jsonl`, and `export/` with averaged weights."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.directory = settings, directory
        self.fingerprint = fingerprint()  # now: the files may be edited while a run goes on
        self.module = build_module(settings).to(settings.device)
        self.averaged = AveragedModel(self.module, multi_avg_fn=warmed_ema(settings.ema))
        self.backbones, self.averaged_backbones = backbones_of(self.module), backbones_of(self.averaged.module)
        self.optimizers = make_optimizers(self.module, settings)
        shares = parse_shares(settings.patch_shares)
        self.tasks = Tasks(settings.seed, settings.tokens, shares, settings.clear, settings.rates)
        self.step, self.seconds = 0, 0.0
        self.begin = time.perf_counter()  # `seconds` counts up to here
        self.losses: list[Tensor] = []  # since the last line of the log
        self.tokens = 0
        held_back = Tasks(VALIDATION_SEED, min(settings.tokens, VALIDATION_TOKENS), shares)
        self.validation = [held_back[CLEAR_BATCHES + index] for index in range(VALIDATION_BATCHES)]

    @property
    def state_file(self) -> Path:
        return self.directory / "state.pt"

    def resume(self) -> None:
        """Goes on from `state.pt` if there is one.

        Refused are another run's settings, except `FREE`, and a state that other code or packages saved
        (`fingerprint`): what comes out would be neither the old run's weights nor the new one's.
        """
        if not self.state_file.exists():
            self._put_log_away()
            return
        try:
            state = torch.load(self.state_file, map_location="cpu", weights_only=True)
        except OSError:
            raise  # names the file and what is wrong with it
        except Exception as error:  # damaged files make torch raise many kinds
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ValueError(
                f"{self.state_file} cannot be read as a run's state ({reason}); if it is damaged, move it away to "
                "begin anew, or give another --out directory"
            ) from error
        if "fingerprint" not in state:
            raise ValueError(
                f"{self.state_file} does not say which code saved it: it is from before that was recorded; "
                "go on with that older code, or give another --out directory"
            )
        if changed := differences(state["fingerprint"], self.fingerprint):
            raise ValueError(
                f"{self.state_file} was saved by other code or packages (saved, now): {changed}; "
                "go on with the saved ones, or give another --out directory"
            )
        changed = differences(state["settings"], asdict(self.settings))
        if refused := {name: values for name, values in changed.items() if name not in FREE}:
            raise ValueError(
                f"{self.state_file} holds a run with other settings (saved, asked): {refused}; "
                "use the saved ones or another --out directory"
            )
        if state["step"] < self.settings.steps:
            self._warn(changed, state)
        self.module.load_state_dict(state["module"])
        self.averaged.load_state_dict(state["averaged"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]
        self._forget_log_after(self.step)
        if self.step >= self.settings.steps:
            logger.warning(
                "%d steps are made and --steps is %d: nothing is left to do; give more --steps to go on",
                self.step,
                self.settings.steps,
            )
        else:
            logger.info("resumed at step %d of %d", self.step, self.settings.steps)

    def _warn(self, changed: Mapping[str, tuple[Any, Any]], state: Mapping[str, Any]) -> None:
        """Names what may change and makes other weights than one run without a stop."""
        moved = {name: pair for name, pair in changed.items() if name in ("device", "seconds")}
        reasons = [f"{name} was {old} and is now {new}" for name, (old, new) in moved.items()]
        if (threads := torch.get_num_threads()) != state["threads"]:
            reasons.append(f"threads were {state['threads']} and are now {threads}")
        if state["step"] and {"steps", "decay"} & set(changed):
            last = state["step"] - 1
            shares = [share_of_rates(settings, last) for settings in (Settings(**state["settings"]), self.settings)]
            if shares[0] != shares[1]:
                reasons.append(
                    f"step {last} was made at {shares[0]:.3f} of the rates, where the steps and decay of now have "
                    f"{shares[1]:.3f}"
                )
        for reason in reasons:
            logger.warning("%s: the weights will not be those of one run without a stop", reason)

    def _put_log_away(self) -> None:
        """The log of a run that was killed before it saved anything, or whatever else has that name."""
        log = self.directory / "log.jsonl"
        if log.exists():
            names = (log.with_suffix(f".old{n}.jsonl") for n in itertools.count(1))
            old = next(name for name in names if not name.exists())
            os.replace(log, old)
            logger.warning("there is no %s to go on from: %s is now %s", self.state_file, log, old)

    def _forget_log_after(self, step: int) -> None:
        """Drops the log's lines of steps that will be made again, and one that a kill left unfinished."""
        log = self.directory / "log.jsonl"
        if log.exists():
            whole = [line for line in log.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in whole if json.loads(line)["step"] <= step]
            part = log.with_suffix(".part")
            part.write_text("".join(f"{line}\n" for line in kept))
            os.replace(part, log)

    def save(self) -> None:
        """Writes `state.pt` and `export/`, each whole or not at all."""
        self.directory.mkdir(parents=True, exist_ok=True)
        state = {
            "settings": asdict(self.settings),
            "fingerprint": self.fingerprint,
            "threads": torch.get_num_threads(),
            "module": self.module.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }
        part = self.state_file.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.state_file)
        export(self.averaged.module, self.directory / "export")

    def schedule(self) -> float:
        """The share of their rates at which the optimisers make the present step."""
        share = share_of_rates(self.settings, self.step)
        if limit := self.settings.seconds:
            left = limit - self.seconds - (time.perf_counter() - self.begin)
            share = min(share, max(0.0, left / max(1e-9, limit * self.settings.decay)))
        return share

    def batches(self) -> DataLoader[Task]:
        """The training batches from the present step on; the index of a batch is its step."""
        workers = self.settings.workers
        return DataLoader(
            self.tasks,
            batch_size=None,
            sampler=range(self.step, self.settings.steps),
            num_workers=workers,  # DataLoader gives each one torch thread
            multiprocessing_context="spawn" if workers else None,  # forking a process with threads may hang
            pin_memory=self.settings.device.startswith("cuda"),
        )

    def loss(self, task: Task, backbones: Mapping[int, MoiraiBackbone]) -> Tensor:
        device, enabled = self.settings.device, self.settings.precision == "bfloat16"
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=enabled):
            return horizon_loss(backbones, task.to(device))

    @torch.no_grad()
    def validation_loss(self, backbones: Mapping[int, MoiraiBackbone]) -> float:
        """Mean over the held-back batches."""
        return float(np.mean([self.loss(task, backbones).item() for task in self.validation]))

    def train_step(self, task: Task) -> Tensor:
        """Returns the loss before the step, without waiting for the device."""
        share = self.schedule()
        rates = (self.settings.hidden_learning_rate, self.settings.learning_rate)
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * share
        loss = self.loss(task, self.backbones)
        self.module.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.averaged.update_parameters(self.module)
        self.step += 1
        return loss.detach()

    def log(self, **values: float) -> None:
        line = json.dumps({"step": self.step, **{name: round(value, 5) for name, value in values.items()}})
        logger.info(line)
        with (self.directory / "log.jsonl").open("a") as file:
            file.write(line + "\n")

    def run(self, log_every: int = 100, save_every: int = 500) -> None:
        train_together([self], log_every, save_every)

    def learn(self, task: Task) -> None:
        self.losses.append(self.train_step(task))
        self.tokens += task.tokens

    def check(self) -> None:
        """FloatingPointError where the mean loss since the last line of the log is not finite."""
        if not math.isfinite(loss := torch.stack(self.losses).mean().item()):
            raise FloatingPointError(
                f"loss is {loss}, the mean of {len(self.losses)} steps up to {self.step}; nothing of them is saved; "
                "lower --learning-rate or --hidden-learning-rate, or take --precision float32, in another --out "
                "directory"
            )

    def report(self, saving: bool) -> None:
        """Adds a line to the log, of the steps since the last; with `saving`, validates and saves too."""
        elapsed = time.perf_counter() - self.begin
        self.seconds += elapsed
        loss = torch.stack(self.losses).mean().item()
        values = {"loss": loss, "tokens_per_second": self.tokens / elapsed, "seconds": self.seconds}
        self.losses, self.tokens, self.begin = [], 0, time.perf_counter()
        if saving:
            values["validation_loss"] = self.validation_loss(self.backbones)
            values["averaged_validation_loss"] = self.validation_loss(self.averaged_backbones)
            self.save()
        self.log(**values, schedule=self.schedule())


def train_together(runs: Sequence[Pretraining], log_every: int = 100, save_every: int = 500) -> None:
    """Runs whose models learn from the same batches, each by itself; `seconds` of each are those of all.

    They differ in width and layers at most, and are at the same step.
    """
    first = runs[0]
    if len(steps := {run.step for run in runs}) > 1:
        raise ValueError(f"the runs are at the steps {sorted(steps)}; only runs at the same step go on together")
    for run in runs:
        run.directory.mkdir(parents=True, exist_ok=True)
        run.begin = time.perf_counter()
    for task in first.batches():
        task = task.to(first.settings.device)
        for run in runs:
            run.learn(task)
        last = first.schedule() <= 0
        saving = last or first.step % save_every == 0
        if saving or first.step % log_every == 0:
            for run in runs:
                run.check()
            for run in runs:
                run.report(saving)
        if last:
            break


def export(module: MoiraiModule, directory: Path) -> None:
    """Writes config.json and model.safetensors (float16) so that `MoiraiModule.from_pretrained` reads them."""
    part = directory.with_name(directory.name + ".part")
    copy.deepcopy(module).cpu().half().save_pretrained(part)
    config = json.loads((part / "config.json").read_text()) | {"pretrained_alone": True}  # each series by itself
    (part / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        os.replace(part / name, directory / name)
    shutil.rmtree(part)  # what save_pretrained leaves beside them (a README)
