"""The benchmark of sizes: equal processor time for each, one thread, whole entries, and sizes that can't be made."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import checkpoint, sizes
from benchmarks.errors import Misuse
from darts_msft.pretraining import train
from darts_msft.pretraining.objective import Tasks, horizon_loss
from darts_msft.pretraining.train import Pretraining, Settings, backbones_of, build_module

Spent = Callable[[Pretraining], float]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small batches, few forecasts, and temporary folders that can be looked into."""
    monkeypatch.setattr(train, "VALIDATION_BATCHES", 2)
    monkeypatch.setitem(sizes.SETTINGS, "tokens", 48)
    monkeypatch.setitem(sizes.SETTINGS, "warmup", 2)
    for name, value in {"forecasts": 2, "rounds": 1, "samples": 2}.items():
        monkeypatch.setitem(checkpoint.SPEED, name, value)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    """More than the one that training has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Runs the command; returns the entries written so far, the first of which was there before."""
    results = tmp_path / "results.json"
    results.write_text(json.dumps([{"size": "an older one"}]))

    def run(*words: str) -> list[dict[str, Any]]:
        sizes.run(sizes.parse([*words, "--results", str(results)]))
        entries: list[dict[str, Any]] = json.loads(results.read_text())
        return entries

    return run


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Pretraining]:
    """The runs that were saved."""
    saved: list[Pretraining] = []
    save = Pretraining.save
    monkeypatch.setattr(Pretraining, "save", lambda self: saved.append(self) or save(self))
    return saved


def pretend(monkeypatch: pytest.MonkeyPatch, seconds: Spent) -> list[dict[str, Any]]:
    """Steps that do nothing but take `seconds` of a clock's time; what each one saw. Validation takes ten hours."""
    clock, seen = SimpleNamespace(now=0.0), []

    def step(self: Pretraining, task: Any) -> float:
        seen.append({"width": self.settings.width, "at": clock.now, "rate": self.schedule(), "task": task})
        seen[-1]["threads"] = torch.get_num_threads()
        clock.now += seconds(self)
        self.step += 1
        return 0.0

    def validate(self: Pretraining, backbones: Any) -> float:
        clock.now += 36_000
        return 0.5 if backbones is self.averaged_backbones else 0.75

    monkeypatch.setattr(sizes, "time", SimpleNamespace(process_time=lambda: clock.now))
    monkeypatch.setattr(Pretraining, "train_step", step)
    monkeypatch.setattr(Pretraining, "validation_loss", validate)
    monkeypatch.setattr(sizes, "speed", lambda checkpoint, threads: {})
    return seen


def rising(run: Pretraining) -> float:
    """Steps of the wider one are three times as long, and all get longer by and by."""
    return (1.0 if run.settings.width == 64 else 3.0) * (1 + run.step / 5)


# ---------------------------------------------------------------------------------------------------------------- time


def test_sizes_get_equal_time_though_steps_differ_in_length(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that get longer during the run would mislead a probe at its beginning."""
    seen = pretend(monkeypatch, rising)
    _, narrow, wide = command("--sizes", "64x1", "128x1", "--minutes", "0.25")
    for entry, first, steps in ((narrow, 1, 9), (wide, 3, 4)):  # by their first steps these would have 15 and 5
        lengths = [first * (1 + step / 5) for step in range(steps)]
        assert entry["steps"] == steps
        assert entry["processor_seconds"] == pytest.approx(sum(lengths))
        assert sum(lengths[:-1]) < 15 <= sum(lengths)
        assert (entry["minutes"], entry["validation_loss"]) == (0.25, 0.5)
    assert [one["width"] for one in seen] == [64] * 9 + [128] * 4


def test_rate_falls_over_the_last_three_tenths_of_the_time(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sizes.SETTINGS, "warmup", 4)
    seen = pretend(monkeypatch, rising)
    command("--sizes", "64x1", "--minutes", "0.25")
    assert [one["rate"] for one in seen[:5]] == [0.25, 0.5, 0.75, 1.0, 1.0]
    for one in seen[5:]:
        assert one["rate"] == pytest.approx(min(1.0, (15 - one["at"]) / 4.5))
    assert [one["rate"] == 1 for one in seen[5:]] == [True, True, False, False]
    assert 0 < seen[-1]["rate"] < 0.5


def test_batches_are_those_of_the_pretraining_command(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = pretend(monkeypatch, lambda run: 12.0)
    command("--sizes", "64x1", "--minutes", "1")
    assert len(seen) == 5
    for index, one in enumerate(seen):
        torch.testing.assert_close(one["task"].context, Tasks(0, 48)[index].context, rtol=0, atol=0, equal_nan=True)


def test_training_has_one_thread_and_forecasts_those_asked_for(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, runs: list[Pretraining]
) -> None:
    seen = pretend(monkeypatch, lambda run: 30.0)
    asked: list[Any] = []

    def speed(folder: str, threads: int) -> dict[str, Any]:
        asked.append((folder, threads, torch.get_num_threads(), (Path(folder) / "model.safetensors").is_file()))
        return {"seconds_by_patch_size": {"32": 0.25}}

    monkeypatch.setattr(sizes, "speed", speed)
    entry = command("--sizes", "64x1", "--minutes", "1", "--threads", "3")[-1]
    assert {one["threads"] for one in seen} == {1}
    assert asked == [(str(runs[0].directory / "export"), 3, 2, True)]
    assert entry["seconds_by_patch_size"] == {"32": 0.25}
    assert torch.get_num_threads() == 2


# ------------------------------------------------------------------------------------------------------------- entries


def test_a_tiny_size_in_a_second(
    command: Callable[..., Any], runs: list[Pretraining], capsys: pytest.CaptureFixture[str]
) -> None:
    older, entry = command("--sizes", "68x1", "--minutes", "0.01", "--threads", "1")
    assert older == {"size": "an older one"}
    [run] = runs
    assert (entry["size"], entry["minutes"], entry["threads"]) == ("68x1", 0.01, 1)
    assert entry["steps"] == run.step > 2
    assert 0.6 <= entry["processor_seconds"] < 5
    assert entry["parameters"] == sum(p.numel() for p in build_module(Settings(width=68, layers=1)).parameters())
    assert entry["weight_file_bytes"] > 2 * entry["parameters"]  # float16
    assert entry["seconds_by_patch_size"].keys() == {"16", "32"}
    assert all(seconds > 0 for seconds in entry["seconds_by_patch_size"].values())
    assert (entry["forecasts"], entry["context"], entry["horizon"]) == (2, 512, 96)
    with sizes.one_thread():
        assert entry["validation_loss"] == pytest.approx(run.validation_loss(run.averaged_backbones))
    settings = asdict(Settings(width=68, layers=1, tokens=48, warmup=2, precision="bfloat16"))
    assert entry["pretraining"] == {name: value for name, value in settings.items() if name != "steps"}
    assert len(entry["commit"]) == 40
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == entry


def test_shares_of_patch_sizes_rule_the_run_and_its_checkpoint_is_kept(
    command: Callable[..., Any], runs: list[Pretraining], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, lambda run: 30.0)
    words = ("--sizes", "64x1", "--minutes", "1", "--patch-shares", "4:0.5,16:0.5", "--keep", str(tmp_path / "kept"))
    entry = command(*words)[-1]
    assert entry["pretraining"]["patch_shares"] == "4:0.5,16:0.5"
    assert entry["weights"] == checkpoint.weights_hash(str(tmp_path / "kept" / "64x1"))
    assert json.loads((tmp_path / "kept" / "64x1" / "config.json").read_text())["patch_sizes"] == [4, 16]
    with pytest.raises(Misuse, match="64x1 exists; give another folder to --keep"):
        command(*words)
    assert len(runs) == 1


@pytest.mark.parametrize("word", ["", "16", "64:1"])
def test_shares_that_are_none_are_refused(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        sizes.parse([f"--patch-shares={word}"])
    assert stop.value.code == 2
    assert "argument --patch-shares: patch_shares must be patch size" in " ".join(capsys.readouterr().err.split())


def test_a_size_that_fails_leaves_no_entry_and_those_before_it_whole(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(run: Pretraining) -> float:
        if run.settings.width == 128 and run.step == 1:
            raise FloatingPointError
        return 30.0

    pretend(monkeypatch, fail)
    with pytest.raises(FloatingPointError):
        command("--sizes", "64x1", "128x1", "192x1", "--minutes", "1")
    assert [entry["size"] for entry in json.loads((tmp_path / "results.json").read_text())] == ["an older one", "64x1"]
    assert torch.get_num_threads() == 2
    assert list((tmp_path / "temporary").iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "temporary", ".claims"}


def test_results_that_are_no_list_are_noticed_before_the_first_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sizes, "measure", lambda *asked: pytest.fail("was measured"))
    (tmp_path / "broken.json").write_text("[{")
    with pytest.raises(Misuse, match=r"broken\.json is not JSON"):
        sizes.run(sizes.parse(["--results", str(tmp_path / "broken.json")]))
    assert (tmp_path / "broken.json").read_text() == "[{"


# --------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("96", "'96' is no size; give width x layers, such as 96x4"),
        ("96x", "'96x' is no size"),
        ("x4", "'x4' is no size"),
        ("96x4x2", "'96x4x2' is no size"),
        ("96x0", "'96x0' is no size"),
        ("9.6x4", r"'9\.6x4' is no size"),
        ("٩٦x4", "is no size"),
        ("32x2", "width must be at least 64 .* got 32"),
        ("98x2", r"width must be at least 64 and a multiple of 4 \* \(width // 64\), got 98"),
        ("200x2", "width must be .* got 200"),
    ],
)
def test_sizes_that_cannot_be_made_are_refused_first(
    word: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sizes, "measure", lambda *asked: pytest.fail("was measured"))
    with pytest.raises(SystemExit) as stop:
        sizes.run(sizes.parse(["--sizes", "64x1", word, "--results", str(tmp_path / "new.json")]))
    assert stop.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(f"argument --sizes: .*{said}", error)
    assert not (tmp_path / "new.json").exists()


@pytest.mark.parametrize("word", ["0", "-1", "nan", "inf", "long"])
def test_minutes_are_above_zero(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        sizes.parse([f"--minutes={word}"])
    assert stop.value.code == 2
    assert "argument --minutes" in capsys.readouterr().err


@pytest.mark.parametrize("width", [63, 64, 66, 68, 100, 126, 128, 130, 132, 136, 192, 200, 204])
def test_sizes_are_refused_where_the_network_cannot_be_made(width: int) -> None:
    try:
        horizon_loss(backbones_of(build_module(Settings(width=width, layers=1))), Tasks(0, 48)[0])
    except (AssertionError, RuntimeError, ValueError):
        with pytest.raises(ValueError, match=f"width .* got {width}"):
            sizes.shape_of(f"{width}x1")
    else:
        assert sizes.shape_of(f"{width}x1") == (width, 1)


def test_sizes_by_default_can_be_made() -> None:
    assert [sizes.shape_of(size) for size in sizes.parse([]).sizes] == [(96, 4), (128, 6), (192, 6)]
