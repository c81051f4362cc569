"""What stands under a table."""

from __future__ import annotations

from typing import Any

import pytest
from fake_results import result, tables_of

from benchmarks.notes import notes
from benchmarks.summary import Table


def lsf(model: str, mse: float = 0.4, dataset: str = "ETTh1", horizon: int = 96, **changes: Any) -> dict[str, Any]:
    return result(model, dataset, horizon, metrics={"mse": mse, "mae": mse + 0.1}, **changes)


def notes_of(*found: dict[str, Any]) -> list[str]:
    (table,) = tables_of(*found)
    return notes(table)


def test_notes_say_look_back_windows_and_what_was_kept() -> None:
    entries = [
        lsf("msft", 0.4, settings={"look_back": 1024}, fit_report={"kept": "zero-shot"}, seed=2),
        lsf("msft", 0.4, horizon=336, settings={"look_back": 512}, fit_report={"kept": "epoch 3"}),
        lsf("dlinear", 0.4, settings={"look_back": 336, "lr": 0.001}, fit_report={"kept": "epoch 0"}),
    ]
    entries[2]["provenance"]["dirty"] = True
    (table,) = tables_of(*entries)
    lines = notes(table)
    assert "Test windows: 2785 for ETTh1 96; 2545 for ETTh1 336." in lines
    chosen = "1024 (ETTh1 96), 512 (ETTh1 336) for MSFT; 336 for DLinear"
    assert f"Look-back chosen on validation data: {chosen}." in lines
    kept = "Finetuning was no better on validation data, so the pretrained model was kept: MSFT on ETTh1 96 (seed 2)."
    assert [line for line in lines if line.startswith("Finetuning")] == [kept]
    assert lines[-1] == "Code: commit c67c8c5, c67c8c5 with uncommitted changes."


def test_variables_without_msis_are_named() -> None:
    (table,) = tables_of(result("msft", family="pf", without_msis=["rain", "snow"]), result("full", family="pf"))
    assert any(line.endswith("from season to season: rain, snow of ETTh1 96.") for line in notes(table))
    (table,) = tables_of(result("msft", family="pf", without_msis=[]))
    assert not any("season to season" in line for line in notes(table))


def test_fits_that_were_still_improving_are_named_with_their_seeds() -> None:
    entries = [
        lsf("patchtst", seed=seed, fit_report={"kept": "epoch 1", "still_improving": seed != 1}) for seed in range(3)
    ]
    entries += [lsf("msft", fit_report={"kept": "epoch 2", "still_improving": False}), lsf("zero_shot")]
    line = "Still improving, the best epoch was the last: PatchTST on ETTh1 96 (seeds 0, 2)."
    assert [found for found in notes_of(*entries) if found.startswith("Still")] == [line]


def test_point_forecasts_are_told_apart() -> None:
    lines = notes_of(lsf("msft"), lsf("chronos2"), lsf("dlinear"), lsf("seasonal_naive"))
    medians = "medians of the forecast distribution (MSFT, Chronos-2)"
    assert f"Point forecasts: {medians}; what a fit of the squared error gives (DLinear)." in lines
    assert not any(line.startswith("Point") for line in notes_of(result("msft", family="pf")))


def test_what_keeps_an_epoch_is_told() -> None:
    models = ("msft", "zero_shot", "dlinear", "patchtst", "seasonal_naive")
    says = "The epoch that is kept has the least validation CRPS (MSFT) or {}, which they also train ({})."
    assert says.format("squared error", "DLinear, PatchTST") in notes_of(*map(lsf, models))
    assert says.format("pinball loss", "DLinear") in notes_of(*(result(name, family="pf") for name in models[:3]))
    assert not any(line.startswith("The epoch") for line in notes_of(lsf("zero_shot"), lsf("seasonal_naive")))


def test_quantiles_beyond_and_between_known_levels_are_told() -> None:
    tenths = [level / 10 for level in range(1, 10)]
    entries = [
        result("fracast", family="pf", resolved={"known_levels": tenths}),
        result("chronos2", family="pf", resolved={"known_levels": [0.01, 0.05, *tenths, 0.95, 0.99]}),
        result("msft", family="pf"),
    ]
    where = "Fracast-0 (beyond its own levels); Chronos-2 (between its own levels)"
    line = f"The quantiles that the MSIS is of (2.5 and 97.5 %) are read off others: {where}."
    assert line in notes_of(*entries)
    assert not any("read off" in line for line in notes_of(entries[-1]))


LISTS: dict[str, Any] = {"patch_size": [16, 32]}
OWN = ", and a look-back of its own choice"


@pytest.mark.parametrize(
    ("model", "options", "follows", "says"),
    [
        ("msft", LISTS, True, [OWN]),
        ("msft", {**LISTS, "look_back": 512}, True, [""]),
        ("msft", LISTS, False, []),
        ("msft", {"look_back": 512, "patch_size": 32}, True, []),
        ("zero_shot", LISTS, True, []),
        ("dlinear", {}, True, []),
    ],
)
def test_whose_patch_size_and_look_back_it_is(
    model: str, options: dict[str, Any], follows: bool, says: list[str]
) -> None:
    lines = notes_of(lsf(model, options=options, budget={"zero_shot_choice": follows}))
    start = "What trains a pretrained model's architecture has the patch size chosen for zero-shot"
    assert [line for line in lines if line.startswith("What trains")] == [f"{start}{own}." for own in says]


def test_epochs_of_baselines_are_told() -> None:
    budget = {"epochs": 5, "baseline_epochs": 20}
    (table,) = tables_of(*(lsf(model, budget=budget) for model in ("msft", "scratch", "dlinear", "patchtst")))
    line = "Models that begin from random weights (DLinear, PatchTST) may train for 20 epochs, all others for 5; "
    assert f"{line}the patience is the same." in notes(table)
    assert "(5 epochs (20 for baselines), patience 3" in table.title
    longer = lsf("scratch", budget=budget, resolved={"look_back": 512, "max_epochs": 20})
    names = "from scratch, DLinear"
    assert line.replace("DLinear, PatchTST", names) in " ".join(notes_of(longer, lsf("dlinear", budget=budget)))
    for entry in (lsf("dlinear"), lsf("msft", budget=budget)):
        assert not any(line.startswith("Models that begin") for line in notes_of(entry))


def test_who_trains_to_the_end_is_told() -> None:
    budget = {"epochs": 5, "baseline_epochs": 20, "patience": 3}
    one_cycle = {"look_back": 512, "max_epochs": 20, "schedule": "OneCycleLR"}
    found = [
        lsf("timemixer", horizon=horizon, budget=budget, resolved=one_cycle, fit_report={"kept": "", "epochs": epochs})
        for horizon, epochs in ((96, 20), (336, 5))
    ]
    other = {"resolved": {**one_cycle, "schedule": "LambdaLR"}, "fit_report": {"kept": "epoch 1", "epochs": 5}}
    starts = "Not ended early", "Ended early"
    (table,) = tables_of(*found, lsf("patchtst", budget=budget, **other))
    assert told(table, *starts) == [
        "Not ended early, since a one-cycle rate rises first: TimeMixer on ETTh1 96 (seed 0).",
        "Ended early, before the one-cycle rate had come down: TimeMixer on ETTh1 336 (seed 0).",
    ]
    (table,) = tables_of(lsf("patchtst", budget=budget, **other))
    assert told(table, *starts) == []


def test_borrowed_hyperparameters_are_told() -> None:
    found = [lsf(model, dataset=name) for model in ("itransformer", "dlinear", "msft") for name in ("Weather", "sales")]
    line = "Hyperparameters of the authors' Weather script, as they have none: iTransformer for sales."
    start = "Hyperparameters"
    (table,) = tables_of(*found)
    assert told(table, start) == [line]
    (table,) = tables_of(*(entry for entry in found if entry["experiment"]["dataset"] == "Weather"))
    assert told(table, start) == []


def test_validation_windows_are_counted() -> None:
    lines = notes_of(lsf("msft"), lsf("msft", horizon=336, validation_windows=7))
    assert "Validation windows that settings were chosen by: 200 for ETTh1 96; 7 for ETTh1 336." in lines


def told(table: Table, *starts: str) -> list[str]:
    return [line for line in notes(table) if line.startswith(starts)]


def test_only_what_chose_its_look_back_is_said_to_have_chosen_it() -> None:
    fracast = lsf("fracast", options={"look_back": [2048]}, settings={"look_back": 2048})
    naive = lsf("seasonal_naive", settings={"look_back": 24})
    (table,) = tables_of(fracast, lsf("msft"), naive)
    assert told(table, "Look-back") == [
        "Look-back chosen on validation data: 512 for MSFT.",
        "Look-back as given: 2048 for Fracast-0.",
        "Look-back of one season: 24 for seasonal naive.",
    ]
    (table,) = tables_of(naive, lsf("seasonal_naive", dataset="ETTm1", settings={"look_back": 96}))
    assert told(table, "Look-back") == ["Look-back of one season: 24 (ETTh1 96), 96 (ETTm1 96)."]
    (table,) = tables_of(lsf("msft", budget={"look_backs": (512,)}))
    assert told(table, "Look-back") == ["Look-back as given: 512."]


def test_nothing_is_said_to_be_chosen_where_nothing_was() -> None:
    given = {"look_back": 336, "lr": "paper"}
    for entry in (lsf("seasonal_naive"), lsf("dlinear", options=given), lsf("full", options={"look_back": 336})):
        assert "chosen" not in " ".join(notes_of(entry))
    rates = {"look_back": 336, "lr": [0.1, 0.01]}
    for entry in (lsf("dlinear", options={"look_back": 336}), lsf("patchtst", options=rates)):
        assert "Validation windows that settings were chosen by: 200." in notes_of(entry)
    entries = [lsf("msft"), lsf("seasonal_naive", validation_windows=7)]
    assert "Validation windows that settings were chosen by: 200." in notes_of(*entries)


def sized(look_back: int, scales: int, patch_size: int = 32) -> dict[str, Any]:
    return {"resolved": {"look_back": look_back, "patch_size": patch_size, "num_scales": scales}}


def test_patch_sizes_and_scales_are_those_that_models_really_had() -> None:
    (table,) = tables_of(
        lsf("msft", **sized(336, 1)),
        lsf("msft", horizon=336, **sized(1024, 3)),
        lsf("full", **sized(336, 0)),
        lsf("zero_shot", horizon=336, **sized(1024, 0, patch_size=16)),
        lsf("dlinear"),
    )
    patches = "32 for MSFT, full finetuning; 16 for zero-shot"
    line = f"Patch size of the pretrained model's architecture: {patches}; K (new scales): 1 (ETTh1 96), 3 (ETTh1 336)"
    assert told(table, "Patch") == [f"{line} for MSFT."]


def test_scales_of_variants_and_of_seeds() -> None:
    (table,) = tables_of(lsf("msft", **sized(512, 2)), lsf("msft", options={"mixing": "first"}, **sized(512, 2)))
    assert told(table, "Patch") == ["Patch size of the pretrained model's architecture: 32; K (new scales): 2."]
    fewer = lsf("msft", options={"num_scales": 1}, **sized(512, 1))
    (table,) = tables_of(lsf("msft", **sized(512, 2)), fewer)
    assert told(table, "Patch")[0].endswith("K (new scales): 2 for MSFT; 1 for MSFT (num_scales=1).")
    (table,) = tables_of(lsf("msft", **sized(512, 2)), lsf("msft", seed=1, **sized(512, 1)))
    assert told(table, "Patch")[0].endswith("K (new scales): 2 or 1.")


def test_what_has_no_scales_is_told_none() -> None:
    (table,) = tables_of(lsf("full"), lsf("lora"), lsf("dlinear"))
    assert told(table, "Patch") == ["Patch size of the pretrained model's architecture: 32."]
    (table,) = tables_of(lsf("dlinear"), lsf("patchtst"))
    assert told(table, "Patch") == []
