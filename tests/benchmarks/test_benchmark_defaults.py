"""The benchmark of default settings: what tells runs apart, where entries come from, and the table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from card_entries import EARLIER
from model_fixtures import wave
from written_figures import text

from benchmarks import defaults
from benchmarks.errors import Misuse
from benchmarks.run.provenance import ROOT, provenance
from darts_msft import MSFTFoundationModel
from darts_msft.methods import find_method

ASKED = argparse.Namespace(
    backbone="moirai-tiny", epochs=1, datasets=["ETTh1"], groups=["msft", "scratch", "weights"], seeds=[0], data=None
)


def test_runs_of_another_window_are_other_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = defaults.plan(ASKED, "ETTh1")
    for name in ("CONTEXT", "HORIZON"):
        with monkeypatch.context() as patch:
            patch.setattr(defaults, name, 64)
            assert not [run for run in defaults.plan(ASKED, "ETTh1") if run in runs]


def test_settings_that_are_the_default_are_one_run() -> None:
    """MSFT's default rate is in its grid, and the mixture is its default."""
    runs = defaults.plan(argparse.Namespace(**{**vars(ASKED), "groups": ["msft", "mixing"]}), "ETTh1")
    assert len(runs) == 4 + 4 - 1


def test_what_is_held_back_is_not_seen_by_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights' judge is the second half of the validation part, with the look-back that lies before it."""
    seen = {}
    monkeypatch.setattr(defaults, "CONTEXT", 32)
    monkeypatch.setattr(defaults, "HORIZON", 8)
    monkeypatch.setattr(defaults, "parts", lambda name, folder: (wave(120), wave(112, seed=1)))
    fit = MSFTFoundationModel.fit
    monkeypatch.setattr(
        MSFTFoundationModel, "fit", lambda self, *a, **k: seen.update(k) or fit(self, *a, **k), raising=True
    )
    monkeypatch.setattr(defaults, "held_back", lambda model, series, stride: seen.update(rest=series) or 0.25)
    run = {"dataset": "ETTh1", "backbone": "moirai-tiny", "epochs": 1, "seed": 0, "stride": 8}
    found = defaults.fit({**run, "settings": {"weight_learning": "stacking", "validation_share": 0.5}}, None)
    assert found["held_back"] == 0.25
    assert len(seen["val_series"]) == 32 + 40
    assert seen["rest"] == wave(112, seed=1)[40:]
    assert "held_back" not in defaults.fit({**run, "settings": {"weight_learning": "stacking"}}, None)


def test_the_commit_is_the_repository_s_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = provenance()
    monkeypatch.chdir(tmp_path)
    there = provenance()
    assert here["commit"] == there["commit"]
    assert len(here["commit"]) == 40


def test_what_has_an_entry_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[dict] = []

    def fit(run: dict, folder: str | None) -> dict:
        if len(done) == 8:
            raise KeyboardInterrupt
        done.append(run)
        return {"scores": {"start": 0.5, "epoch 0": 0.25}, "best": 0.25, "seconds": 1.0}

    monkeypatch.setattr(defaults, "fit", fit)
    monkeypatch.setattr(defaults, "load", lambda name, family, folder: SimpleNamespace(hash=f"{name} {family}"))
    arguments = argparse.Namespace(**vars(ASKED), results=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        defaults.run_missing(arguments, "ETTh1")
    entries = json.loads((tmp_path / "ETTh1.json").read_text())
    assert [entry["run"] for entry in entries] == done
    assert {entry["data_hash"] for entry in entries} == {"ETTh1 lsf"}
    first = list(done)
    done.clear()
    defaults.run_missing(arguments, "ETTh1")
    assert first + done == defaults.plan(ASKED, "ETTh1")


@pytest.mark.parametrize("of", [FileNotFoundError, Misuse])
def test_data_that_are_not_there_are_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: type) -> None:
    def fail(*asked: object) -> None:
        raise of("ETTh1.csv is not in nowhere")

    monkeypatch.setattr(defaults, "load", fail)
    with pytest.raises(Misuse, match=r"^ETTh1\.csv is not in nowhere$"):
        defaults.main(["--data", "nowhere", "--results", str(tmp_path)])


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_backbone_that_is_not_there_is_a_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(Misuse, match=r"^--backbone: .*config\.json"):
        defaults.main(["--backbone", str(tmp_path / name), "--results", str(tmp_path)])


WORDS = ("--datasets", "ETTh1", "--groups", "msft", "--epochs", "1")


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of results where every run has an entry, the first without the hash of its data."""
    runs = defaults.plan(argparse.Namespace(**{**vars(ASKED), "groups": ["msft"]}), "ETTh1")
    entries = [{"run": run, "scores": {"start": 0.5}, "best": 0.25, "data_hash": "d" * 64} for run in runs]
    del entries[0]["data_hash"]
    (tmp_path / "ETTh1.json").write_text(json.dumps(entries))
    monkeypatch.setattr(defaults, "fit", None)
    return tmp_path


def lines_with(
    data: SimpleNamespace | FileNotFoundError, folder: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> list[str]:
    """What the command prints where these are the data."""

    def load(*asked: object) -> SimpleNamespace:
        if isinstance(data, FileNotFoundError):
            raise data
        return data

    patch.setattr(defaults, "load", load)
    defaults.main([*WORDS, "--results", str(folder)])
    return capsys.readouterr().out.splitlines()


def test_where_nothing_is_measured_this_is_said(
    stored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = f"ETTh1: 4 of 4 runs are in {stored / 'ETTh1.json'}, nothing is measured"
    lines = lines_with(SimpleNamespace(hash="d" * 64), stored, monkeypatch, capsys)
    assert lines[:3] == [first, "", "best validation CRPS (over that before training), mean over seeds"]
    lines = lines_with(FileNotFoundError("ETTh1.csv is not in nowhere"), stored, monkeypatch, capsys)
    assert lines[0] == first
    assert lines[1] == "ETTh1: whether they are of the data given can't be told: ETTh1.csv is not in nowhere"


def test_stored_runs_on_other_data_are_refused(
    stored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        Misuse, match=r"ETTh1\.json has runs on data with the hash dddddddddddd\.\.\., .* eeee.* --data"
    ):
        lines_with(SimpleNamespace(hash="e" * 64), stored, monkeypatch, capsys)


def test_table_has_scores_and_no_ratio_for_scratch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = defaults.plan(ASKED, "ETTh1")
    results = [{"run": run, "scores": {"start": 0.5, "epoch 0": 0.25}, "best": 0.25} for run in runs]
    (tmp_path / "ETTh1.json").write_text(json.dumps(results))
    defaults.table(argparse.Namespace(**vars(ASKED), results=tmp_path))
    lines = {tuple(line.split()[:2]): line.split()[-3:] for line in capsys.readouterr().out.splitlines()[2:]}
    assert lines["msft", "lr_new=0.0001"] == ["ETTh1", "0.2500", "(0.5000)"]
    assert lines["weights", "weight_learning=uniform"][1:] == ["ETTh1", "0.2500"]
    assert lines["scratch", "lr_pretrained=0.001"][1:] == ["ETTh1", "0.2500"]


def test_table_of_methods_names_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    defaults.table(argparse.Namespace(**{**vars(ASKED), "groups": ["methods"]}, results=tmp_path))
    shown = [line.split()[1:] for line in capsys.readouterr().out.splitlines()[2:]]
    assert ["validation_share=0.5", "method=full"] in shown
    assert ["validation_share=0.5", "num_scales=0", "method=msft"] in shown
    assert len({tuple(line) for line in shown}) == len(defaults.GROUPS["methods"])


def mean_scores(method: str, weights: str) -> dict[float, float]:
    """The mean CRPS over both data sets by the method's main rate, seed 0."""
    scores: dict[float, list[float]] = {}
    for name in defaults.STRIDES:
        entries = [entry for entry in defaults.read(defaults.RESULTS / f"{name}.json") if entry["run"]["seed"] == 0]
        for settings in map(defaults.resolved, defaults.GROUPS[method]):
            scores.setdefault(settings[f"lr_{main_rate(method)}"], []).extend(
                entry["best"]
                for entry in entries
                if defaults.settings_of(entry)["settings"] == settings and entry["run"]["weights"] == weights
            )
    scores = {rate: found for rate, found in scores.items() if found}  # the largest were tried later
    assert {len(found) for found in scores.values()} == {2}
    return {rate: sum(found) / 2 for rate, found in scores.items()}


def main_rate(method: str) -> str:
    return {"full": "pretrained", "scratch": "pretrained", "linear_probe": "head"}.get(method, "new")


def by_the_rule(means: dict[float, float]) -> float:
    """The smallest rate within half a percent of the best."""
    return min(rate for rate, mean in means.items() if mean <= 1.005 * min(means.values()))


def default_of(method: str) -> float:
    return float(getattr(find_method(method).rates, main_rate(method)))


NAMES = {
    "msft": "MSFT",
    "full": "full finetuning",
    "linear_probe": "the linear probe",
    "prompt": "prompts",
    "lora": "LoRA",
    "adalora": "AdaLoRA",
    "scratch": "scratch",
}


def test_default_rates_follow_from_the_results() -> None:
    """With the checkpoint before; AdaLoRA's is an exception."""
    for method in NAMES:
        means = mean_scores(method, EARLIER)
        assert len(means) >= 4
        if method == "adalora":
            behind = f"{100 * (means[default_of(method)] / min(means.values()) - 1):.2f}"
            assert f"(AdaLoRA's 1e-2, {behind} % behind 3e-2, is an exception)" in text(ROOT / "README.md")
        else:
            assert default_of(method) == by_the_rule(means)


def test_the_readme_says_how_far_the_defaults_are_behind_with_today_s_checkpoint(weights: str) -> None:
    behind, others = [], {}
    for method, name in NAMES.items():
        means = mean_scores(method, weights)
        behind.append(f"{100 * (means[default_of(method)] / min(means.values()) - 1):.1f} % ({name})")
        if by_the_rule(means) != default_of(method):
            others[method] = by_the_rule(means)
    assert f"they are behind the best rate tried by {', '.join(behind)}." in text(ROOT / "README.md")
    assert others == {"msft": 1e-3, "prompt": 3e-2, "adalora": 3e-2}
    assert "MSFT's would now be 1e-3, prompts' and AdaLoRA's 3e-2;" in text(ROOT / "README.md")
    prompts = mean_scores("prompt", weights)
    assert min(prompts, key=lambda rate: prompts[rate]) == max(prompts)
