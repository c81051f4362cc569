"""Strict loading, weight hashes, the licence notice."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from darts_msft.storage import weights
from darts_msft.storage.weights import Source, licence_notice, load_state, load_strict, state_hash

State = dict[str, Tensor]


def make_module() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))


def good_state() -> State:
    return {name: tensor + 1 for name, tensor in make_module().state_dict().items()}


def test_load_strict_copies_every_value_and_keeps_the_parameters() -> None:
    module = make_module()
    before = dict(module.named_parameters())
    state = good_state()
    load_strict(module, state, "here")
    after = dict(module.named_parameters())
    assert all(after[name] is before[name] for name in before)
    assert state_hash(module.state_dict()) == state_hash(state)
    state["0.weight"].zero_()
    assert torch.equal(module.state_dict()["0.weight"], good_state()["0.weight"])


def make_nan(state: State) -> None:
    state["2.weight"][0, 1] = torch.nan


def make_infinite(state: State) -> None:
    state["1.running_var"][1] = -torch.inf


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda state: state.pop("2.bias"), "1 missing (2.bias)"),
        (lambda state: state.update({"2.extra": torch.zeros(1)}), "1 unexpected (2.extra)"),
        (lambda state: state.update({"2.weight": state["2.weight"].T}), "(2.weight: expected (1, 2), found (2, 1))"),
        (lambda state: state.update({"2.weight": torch.zeros(1, 1)}), "(2.weight: expected (1, 2), found (1, 1))"),
        (make_nan, "1 with NaN or infinite values (2.weight)"),
        (make_infinite, "1 with NaN or infinite values (1.running_var)"),
    ],
)
def test_load_strict_refuses_and_writes_nothing(spoil: Callable[[State], None], complaint: str) -> None:
    module, state = make_module(), good_state()
    spoil(state)
    before = state_hash(module.state_dict())
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        load_strict(module, state, "the file X")
    assert all(part in str(caught.value) for part in ("the file X", "Sequential", complaint))
    assert state_hash(module.state_dict()) == before


def test_load_strict_names_all_faults_at_once_and_the_first_few_names() -> None:
    module = nn.ModuleList([nn.Linear(1, 1, bias=False) for _ in range(5)])
    state = {f"other.{index}": torch.zeros(1) for index in range(4)}
    state["0.weight"] = torch.full((2,), torch.nan)
    with pytest.raises(ValueError, match="X") as caught:
        load_strict(module, state, "X")
    counts = re.findall(r"(\d+) (missing|unexpected|of another shape|with NaN)", str(caught.value))
    assert counts == [("4", "missing"), ("4", "unexpected"), ("1", "of another shape"), ("1", "with NaN")]
    assert "(1.weight, 2.weight, 3.weight, and 1 more)" in str(caught.value)


def test_state_hash_depends_on_names_values_types_and_shapes_only() -> None:
    base = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1), "c": torch.zeros(0, 2, dtype=torch.bfloat16)}
    digest = state_hash(base)
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert state_hash(dict(reversed(base.items()))) == digest
    assert state_hash({**base, "a": base["a"].T.contiguous().T}) == digest  # strides are no content
    assert state_hash({"a": torch.arange(6.0)[::2]}) == state_hash({"a": torch.tensor([0.0, 2.0, 4.0])})
    assert state_hash({**base, "a": nn.Parameter(base["a"])}) == digest

    flipped = base["a"].clone()
    flipped.view(torch.int32)[1, 2] ^= 1
    changed = [
        {**base, "a": flipped},
        {"A": base["a"], "b": base["b"], "c": base["c"]},
        {**base, "a": base["a"].reshape(3, 2)},
        {**base, "a": base["a"].view(torch.int32)},
        {**base, "b": torch.tensor([1])},
        {"a": base["a"], "b": base["b"]},
        {**base, "a": base["b"], "b": base["a"]},
    ]
    digests = {state_hash(state) for state in changed}
    assert len(digests) == len(changed)
    assert digest not in digests


def test_state_hash_survives_the_file(tmp_path: Path) -> None:
    state = good_state()
    save_file(state, tmp_path / "model.safetensors")
    read = load_state(Source("directory", str(tmp_path))), load_file(tmp_path / "model.safetensors")
    assert {state_hash(one) for one in read} == {state_hash(state)}


def test_licence_is_logged_once_a_name(caplog: pytest.LogCaptureFixture) -> None:
    weights.clear_cache()
    with caplog.at_level("WARNING", logger="darts_msft"):
        for name in ("one", "one", "two"):
            licence_notice(name, "CC BY-NC 4.0", "https://example.org/terms")
    weights.clear_cache()
    assert ["one" in message for message in caplog.messages] == [True, False]
    assert all("CC BY-NC 4.0" in message and "https://example.org/terms" in message for message in caplog.messages)
