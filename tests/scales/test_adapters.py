"""The modules that MSFT adds: what they do at the start, their formulas, and what their gradients reach."""

import pytest
import torch
from torch import Tensor, nn

from darts_msft.scales import adapters
from darts_msft.scales.adapters import FlatHeads, InputAdapter, LoRA, StepHead, through_loras
from darts_msft.scales.pyramid import ScalePlan, TokenLayout


def randomise(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))


def dot(row: Tensor, x: Tensor) -> float:
    return sum(left * right for left, right in zip(row.tolist(), x.tolist(), strict=True))


def frozen_linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    return nn.Linear(in_features, out_features, bias=bias).requires_grad_(False)


def test_an_input_adapter_starts_as_the_identity_and_is_a_linear_with_bias() -> None:
    adapter, x = InputAdapter(3), torch.randn(2, 3, 5, 3) * 100
    assert torch.equal(adapter(x), x)
    randomise(adapter)
    for row, expected in zip(x.reshape(-1, 3), adapter(x).reshape(-1, 3), strict=True):
        found = [dot(weight, row) + bias for weight, bias in zip(adapter.weight, adapter.bias.tolist(), strict=True)]
        torch.testing.assert_close(torch.tensor(found), expected.detach(), rtol=1e-4, atol=1e-3)
    adapter(x).square().sum().backward()
    assert {name for name, parameter in adapter.named_parameters() if parameter.grad.all()} == {"weight", "bias"}


# --- LoRA -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [7, 130])
def test_a_new_lora_changes_no_bit_and_draws_a_as_in_peft(tokens: int, bias: bool) -> None:
    torch.manual_seed(0)
    lora, linear, x = LoRA(300, 200, rank=16, alpha=16.0), frozen_linear(300, 200, bias), torch.randn(tokens, 300)
    assert (lora.a.shape, lora.b.shape) == ((16, 300), (200, 16))
    bound = 300**-0.5
    assert 0.99 * bound < lora.a.abs().max().item() <= bound
    assert lora.a.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert abs(lora.a.mean().item()) < 2e-3
    assert torch.equal(lora(linear, x), linear(x))
    with torch.no_grad():
        assert torch.equal(lora(linear, x), linear(x))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize(("rank", "alpha"), [(2, 3.0), (1, 0.5)])
def test_lora_adds_alpha_over_rank_times_b_a_x(rank: int, alpha: float, tokens: int, training: bool) -> None:
    lora, linear = LoRA(15, 9, rank, alpha).double(), frozen_linear(15, 9).double()
    x = torch.randn(2, tokens, 15).double()
    randomise(lora)
    with torch.set_grad_enabled(training):
        result = lora(linear, x)
    assert result.shape == (2, tokens, 9)
    for token, found in zip(x.reshape(-1, 15), result.reshape(-1, 9), strict=True):
        inner = torch.tensor([dot(row, token) for row in lora.a], dtype=torch.float64)
        update = torch.tensor([alpha / rank * dot(row, inner) for row in lora.b], dtype=torch.float64)
        torch.testing.assert_close(found, linear(token) + update, rtol=1e-12, atol=1e-12)


def test_forecasts_fold_the_update_into_the_weight_where_that_is_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    """15 inputs and 9 outputs: from 135 / 24 tokens on. With gradients always."""
    folded: list[tuple[int, ...]] = []
    fold = adapters._LowRankUpdate.apply
    monkeypatch.setattr(
        adapters._LowRankUpdate, "apply", lambda x, *rest: folded.append(tuple(x.shape)) or fold(x, *rest)
    )
    lora, linear = LoRA(15, 9, rank=2, alpha=1.0), frozen_linear(15, 9)
    for shape in [(5, 15), (2, 2, 15), (6, 15), (2, 3, 15)]:
        with torch.no_grad():
            lora(linear, torch.randn(shape))
    assert folded == [(6, 15), (2, 3, 15)]
    lora(linear, torch.randn(1, 15))
    assert folded[2:] == [(1, 15)]


@pytest.mark.parametrize("trained", ["nothing", "bias", "weight"])
def test_lora_gradients_are_those_of_the_plain_formula(trained: str) -> None:
    """Of the frozen linear beside it only what was asked for has one."""
    lora, linear = LoRA(5, 3, rank=2, alpha=3.0).double(), frozen_linear(5, 3, trained != "nothing").double()
    randomise(lora)
    x, weight = torch.randn(2, 4, 5).double().requires_grad_(), torch.randn(2, 4, 3).double()
    inputs = [x, lora.a, lora.b]
    if trained != "nothing":
        inputs.append(linear.get_parameter(trained).requires_grad_())
    found = torch.autograd.grad((lora(linear, x) * weight).sum(), inputs)
    plain = linear(x) + 1.5 * torch.einsum("or,ri,bni->bno", lora.b, lora.a, x)
    for ours, expected in zip(found, torch.autograd.grad((plain * weight).sum(), inputs), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize("trained", ["nothing", "bias", "weight"])
@pytest.mark.parametrize("bias", [True, False])
def test_loras_of_all_scales_at_once_are_the_loop(bias: bool, trained: str, tokens: int) -> None:
    """Outputs with and without gradients, and the gradients of x, of every A and B, and of what trains beside."""
    if trained == "bias" and not bias:
        pytest.skip("there is none")
    linear, loras = frozen_linear(5, 3, bias).double(), [LoRA(5, 3, rank=2, alpha=3.0).double() for _ in range(3)]
    for index, lora in enumerate(loras):
        randomise(lora)
        lora.b.data *= index + 1
    x, weight = (torch.randn(6, 2, tokens, size).double() for size in (5, 3))
    inputs = [x.requires_grad_(), *(parameter for lora in loras for parameter in lora.parameters())]
    if trained != "nothing":
        inputs.append(linear.get_parameter(trained).requires_grad_())
    found = through_loras(loras, linear, x)
    expected = torch.cat([lora(linear, part) for lora, part in zip(loras, x.chunk(3), strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    gradients = (torch.autograd.grad((result * weight).sum(), inputs) for result in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(through_loras(loras, linear, x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_small_updates_survive_half_precision(autocast: bool, training: bool) -> None:
    """An update far below the weight's rounding step still reaches the forecast, once the weight's part is small."""
    linear, lora = frozen_linear(4, 1, bias=False), LoRA(4, 1, rank=1, alpha=1.0)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, -1.0, 1.0, -1.0]]))
        lora.a.copy_(torch.ones(1, 4))
        lora.b.fill_(2**-12)
    x = torch.ones(1, 4)
    if not autocast:
        linear, lora, x = linear.bfloat16(), lora.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast), torch.set_grad_enabled(training):
        assert lora(linear, x).item() == 4 * 2**-12


@pytest.mark.parametrize(("precision", "rounds"), [("highest", False), ("high", True), ("medium", True)])
def test_tf32_products_round_small_updates_too(precision: str, rounds: bool) -> None:
    """Ten bits of a GPU's products in single precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert adapters._sum_rounds(torch.device("cuda"), torch.float32) is rounds
        assert not adapters._sum_rounds(torch.device("cuda"), torch.float64)
        assert not adapters._sum_rounds(torch.device("cpu"), torch.float32)
    finally:
        torch.set_float32_matmul_precision(before)


# --- head of a new likelihood -----------------------------------------------------------------------------------------


def test_step_head_lays_out_patches_then_steps_then_parameters() -> None:
    """Parameter r of step p of patch n comes from row p * R + r, and reads patch n alone; the last patch may be cut."""
    width, patch_size, num_parameters = 5, 3, 2
    head, patches = StepHead(width, patch_size, num_parameters), torch.randn(2, 2, 4, width)
    randomise(head)
    result = head(patches, 0, 11)
    assert result.shape == (2, 2, 11, num_parameters)
    for index in range(11):
        patch, step = divmod(index, patch_size)
        for parameter in range(num_parameters):
            row = step * num_parameters + parameter
            expected = dot(head.linear.weight[row], patches[1, 0, patch]) + head.linear.bias[row].item()
            assert result[1, 0, index, parameter].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_new_step_head_starts_near_zero_and_learns() -> None:
    torch.manual_seed(0)
    head = StepHead(width=64, patch_size=16, num_parameters=3)
    assert head.linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert torch.equal(head.linear.bias, torch.zeros(48))
    head(torch.randn(2, 1, 2, 64), 0, 20).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.parameters())


def test_flat_heads_read_all_tokens_of_their_scale() -> None:
    """Parameter r of step h comes from row h * R + r, and reads the tokens one after another."""
    torch.manual_seed(0)
    plan = ScalePlan(44, 6, 4, 2, TokenLayout(horizon=False))  # 11, 6 and 3 tokens; 6, 3 and 2 steps
    heads = FlatHeads(5, plan, 2)
    assert [tuple(head.weight.shape) for head in heads] == [(12, 55), (6, 30), (4, 15)]
    for head, count in zip(heads, (11, 6, 3), strict=True):
        assert head.weight.std().item() == pytest.approx(0.01 / count**0.5, rel=0.2)
        assert not head.bias.any()
    randomise(heads)
    tokens = torch.randn(2, 3, 6, 5)
    result = heads(tokens, 1, 3)
    assert result.shape == (2, 3, 3, 2)
    expected = dot(heads[1].weight[5], tokens[1, 2].flatten()) + heads[1].bias[5].item()
    assert result[1, 2, 2, 1].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
