"""UniTS, written anew: an encoder over prompt, context and horizon tokens that also mixes along time and variates.

(UniTS is the model's name; the units of validation scores are in `training/units.py`.)

Reference: Gao et al. 2024, "UniTS: A Unified Multi-Task Time Series Model" (arXiv 2403.00131); `models/UniTS.py` of
github.com/mims-harvard/UniTS (MIT) at commit 0e02814. Parameters have that file's names. What differs: the tokens of a
data set (prompts and mask) are one set for all variates, at first the checkpoint's mean, and train where prompts do;
contexts are filled on the left to whole patches, not on the right; missing values enter as the window's mean; patches
before a series begins take no part, as if the series were shorter; only the forecasting task is here.

Official checkpoints are pickles. This makes a directory with config.json and model.safetensors of one, to give as
`backbone`:

    python -m darts_msft.backbones.units units_x128_pretrain_checkpoint.pth DIRECTORY
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from darts_msft.backbones.base import Adapters, Backbone, Spec, Stats, Target, Traits, adapted
from darts_msft.backbones.families import PointFamily
from darts_msft.backbones.moments import mean_and_variance
from darts_msft.scales.pyramid import TokenLayout

LENGTH = 128  # of the sequences that the maps along time were made for, prompts included
POSITIONS = 5000
_MINIMUM_VARIANCE = 1e-5  # added to it


class StretchedLinear(nn.Module):
    """A linear map along time, of `inputs` to `outputs` places, stretched to sequences of any length.

    The columns of the first `fixed` places, the prompts, are stretched apart from the others.
    """

    def __init__(self, inputs: int, outputs: int, fixed: int) -> None:
        super().__init__()
        self.fixed, bound = fixed, 1 / math.sqrt(inputs)
        self.weights = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def forward(self, tokens: Float[Tensor, "B N D"], outputs: int) -> Float[Tensor, "B M D"]:
        """`outputs` is M; tokens are mixed, each of the D columns alone."""
        inputs = tokens.shape[-2]
        weights: Tensor = self.weights
        if weights.shape != (outputs, inputs):
            prompts = _stretched(weights[:, : self.fixed], outputs, self.fixed)
            others = _stretched(weights[:, self.fixed :], outputs, inputs - self.fixed)
            weights = torch.cat([prompts, others], dim=-1)
        bias = _stretched(self.bias.unsqueeze(0), 1, outputs).squeeze(0)
        return F.linear(tokens.mT, weights, bias).mT


def _stretched(matrix: Float[Tensor, "I J"], rows: int, columns: int) -> Float[Tensor, "K L"]:
    sizes = (rows, columns)
    return F.interpolate(matrix[None, None], sizes, mode="bilinear", align_corners=False)[0, 0]


class Gated(nn.Module):
    """x -> sigmoid(g(x)) x, with one number g(x) a token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, 1)

    def forward(self, x: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape D"]:
        return self.gate(x).sigmoid() * x


class Projections(nn.Module):
    """Of an attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)


class AttentionBlock(nn.Module):
    """The parameters of an attention along time or across variates; `name` is that of its projections."""

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        self.name = name
        self.norm1, self.ls1 = nn.LayerNorm(width), Gated(width)
        self.add_module(name, Projections(width))

    @property
    def projections(self) -> Projections:
        return cast(Projections, self.get_submodule(self.name))


class DynamicMLP(nn.Module):
    """Feed-forward that mixes time: a convolution, and for half of its channels two maps along time."""

    def __init__(self, width: int, prompts: int) -> None:
        super().__init__()
        hidden = 8 * width
        self.prompts = prompts
        self.norm2, self.ls2 = nn.LayerNorm(width), Gated(width)
        self.mlp = nn.ModuleDict(
            {
                "fc1": nn.Conv1d(width, hidden, 3, padding=1),
                "seq_fc": StretchedLinear(hidden // 4, hidden // 4, prompts),
                "prompt_fc": StretchedLinear(hidden // 4, prompts, prompts),
                "fc2": nn.Linear(hidden, width),
            }
        )

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        hidden: Tensor = self.mlp["fc1"](self.norm2(tokens).mT).mT
        mixed, kept = hidden.chunk(2, dim=-1)
        prompts = self.mlp["prompt_fc"](mixed, self.prompts)
        others = self.mlp["seq_fc"](mixed, mixed.shape[-2] - self.prompts)
        mixed = torch.cat([prompts, others], dim=-2)
        return tokens + self.ls2(self.mlp["fc2"](F.gelu(torch.cat([mixed, kept], dim=-1))))


class Block(nn.Module):
    """A layer."""

    def __init__(self, width: int, prompts: int) -> None:
        super().__init__()
        self.seq_att_block = AttentionBlock("attn_seq", width)
        self.var_att_block = AttentionBlock("attn_var", width)
        self.dynamic_mlp = DynamicMLP(width, prompts)


class ForecastHead(nn.Module):
    """From all tokens to the values of a patch for each token but the prompts."""

    def __init__(self, width: int, patch_size: int, prompts: int) -> None:
        super().__init__()
        self.prompts = prompts
        self.proj_in, self.proj_out = nn.Linear(width, width), nn.Linear(width, patch_size)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.pos_proj = StretchedLinear(LENGTH, LENGTH, prompts)

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B M P"]:
        tokens = self.proj_in(tokens)
        own = tokens[:, self.prompts :]
        mixed = own + self.pos_proj(tokens, own.shape[-2])
        patches: Tensor = self.proj_out(self.mlp["fc2"](F.gelu(self.mlp["fc1"](mixed))))
        return patches


class UnitsBackbone(Backbone):
    """UniTS for forecasts.

    Time is mixed by maps and a convolution, which would read padding: a series' tokens go through them without those
    before its beginning, together with those of the series that begin with it.
    """

    mixes_time = True
    not_exported = "which runs windows apart by how many of their patches are missing"

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.traits = self.traits_of(config)
        self.patch_size = self.traits.patch_sizes[0]
        width, self.num_heads, prompts = config["d_model"], config["n_heads"], config["prompt_num"]
        self.prompt_token = nn.Parameter(0.02 * torch.randn(prompts, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embeddings = nn.ModuleDict({"value_embedding": nn.Linear(self.patch_size, width, bias=False)})
        self.position_embedding = nn.ParameterDict({"pe": _sines(width)})
        self.prompt2forecat = StretchedLinear(LENGTH, LENGTH, prompts)
        self.blocks = nn.ModuleList(Block(width, prompts) for _ in range(config["e_layers"]))
        self.forecast_head = ForecastHead(width, self.patch_size, prompts)
        self.spec = Spec(
            width=width,
            num_layers=len(self.blocks),
            adapter_targets={
                "seq_qkv": Target("attn_seq.qkv", width, 3 * width),
                "var_qkv": Target("attn_var.qkv", width, 3 * width),
            },
            tuned=("blocks.*.attn_*.proj.*", "blocks.*.norm?.*", "blocks.*.ls?.*"),
            head=("forecast_head.*",),
            prompts=("prompt_token", "mask_token"),
        )

    @classmethod
    def traits_of(cls, config: Mapping[str, Any]) -> Traits:
        return Traits(
            (int(config["patch_len"]),),
            PointFamily(),
            TokenLayout(lead=int(config["prompt_num"])),
            multivariate=("joint", "independent"),
            max_tokens=POSITIONS,
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], patch_size: int, joint: bool = False) -> UnitsBackbone:
        return cls(config)

    def statistics(self, past: Float[Tensor, "B V C"], future: Float[Tensor, "B V H"]) -> Stats:
        """Mean, and the root of the biased variance plus 1e-5."""
        mean, variance = mean_and_variance(past)
        return Stats(mean, (variance + _MINIMUM_VARIANCE).sqrt())

    def token_mask(
        self, observed: Bool[Tensor, "B V L"], known: Bool[Tensor, "B V LH"], targets: int
    ) -> Bool[Tensor, "B V N"]:
        """False for the patches before the first one that any variate has something of: gaps inside take part."""
        begun = rearrange(observed, "b v (n p) -> b n (v p)", p=self.patch_size).any(dim=-1).cumsum(dim=-1) > 0
        context = begun.unsqueeze(1).expand(-1, observed.shape[1], -1)
        return F.pad(context, (self.traits.layout.lead, known.shape[-1] // self.patch_size), value=True)

    def embed(
        self,
        past: Float[Tensor, "B V L"],
        observed: Bool[Tensor, "B V L"],
        future: Float[Tensor, "B V LH"],
        known: Bool[Tensor, "B V LH"],
    ) -> Float[Tensor, "B V N D"]:
        lead, count = self.traits.layout.lead, future.shape[-1] // self.patch_size
        context = self.patch_embeddings["value_embedding"](past.unflatten(-1, (-1, self.patch_size)))
        tokens = torch.cat(
            [
                self.prompt_token.to(context.dtype).expand(*past.shape[:2], -1, -1),
                context,
                self.mask_token.to(context.dtype).expand(*past.shape[:2], count, -1),
            ],
            dim=-2,
        )

        def filled(rows: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
            prompts, timed = rows[:, :lead], rows[:, lead:]
            ahead = self.prompt2forecat(rows, timed.shape[1])[:, timed.shape[1] - count :]
            timed = torch.cat([timed[:, : timed.shape[1] - count], ahead], dim=1)
            positions = self.position_embedding["pe"][0, 0, : timed.shape[1]]
            return torch.cat([prompts, timed + positions.to(timed.dtype)], dim=1)

        return self._without_padding(filled, tokens, self.token_mask(observed, known, past.shape[1]))

    def _without_padding(
        self,
        act: Callable[[Float[Tensor, "_ _ D"]], Float[Tensor, "_ _ E"]],
        tokens: Float[Tensor, "B V N D"],
        mask: Bool[Tensor, "B V N"] | None,
    ) -> Float[Tensor, "B V N E"]:
        """`act` on (rows, tokens, D), giving (rows, tokens, E), for all rows of a length at once.

        They come without the masked tokens before the first valid one, where the result has zeros.
        """
        lead, rows = self.traits.layout.lead, tokens.flatten(0, 1)
        if mask is None:
            return act(rows).unflatten(0, tokens.shape[:2])
        padding: Int[Tensor, "rows"] = (mask.flatten(0, 1)[:, lead:].cumsum(dim=-1) == 0).sum(dim=-1)
        order = padding.argsort(stable=True)
        found, sizes = padding.unique(return_counts=True)
        done = []
        for missing, part in zip(found.tolist(), rows[order].split(sizes.tolist()), strict=True):
            acted = act(torch.cat([part[:, :lead], part[:, lead + missing :]], dim=1))
            empty = acted.new_zeros(len(part), missing, acted.shape[-1])
            done.append(torch.cat([acted[:, :lead], empty, acted[:, lead:]], dim=1))
        return torch.cat(done)[order.argsort()].unflatten(0, tokens.shape[:2])

    def attention(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None, adapters: Adapters
    ) -> Float[Tensor, "B V N D"]:
        """Along time, then across variates."""
        mask = torch.ones_like(tokens[..., 0], dtype=torch.bool) if mask is None else mask
        layers = cast(Block, self.blocks[layer])
        attends = {"seq_qkv": (layers.seq_att_block, _along_time), "var_qkv": (layers.var_att_block, _across)}
        for name, (block, attend) in attends.items():
            joined = adapted(name, block.projections.qkv, block.norm1(tokens), adapters)
            split = "b v n (three head d) -> three b v head n d"
            query, key, value = rearrange(joined, split, three=3, head=self.num_heads)
            attended = rearrange(attend(query, key, value, mask), "b v head n d -> b v n (head d)")
            tokens = tokens + block.ls1(block.projections.proj(attended))
        return tokens

    def feed_forward(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None
    ) -> Float[Tensor, "B V N D"]:
        return self._without_padding(cast(Block, self.blocks[layer]).dynamic_mlp, tokens, mask)

    def readout(
        self, tokens: Float[Tensor, "B V N D"], horizon: int, mask: Bool[Tensor, "B V N"]
    ) -> Float[Tensor, "B V NH D"]:
        return tokens[..., -math.ceil(horizon / self.patch_size) :, :]

    def head(
        self, tokens: Float[Tensor, "B V N D"], horizon: int, mask: Bool[Tensor, "B V N"]
    ) -> Float[Tensor, "B V H R"]:
        count, lead = math.ceil(horizon / self.patch_size), self.traits.layout.lead

        def patches(rows: Float[Tensor, "B N D"]) -> Float[Tensor, "B N P"]:
            return F.pad(self.forecast_head(rows), (0, 0, lead, 0))

        steps = self._without_padding(patches, tokens, mask)[..., -count:, :].flatten(-2)
        return steps[..., :horizon].unsqueeze(-1)


def _along_time(
    query: Float[Tensor, "B V heads N d"],
    key: Float[Tensor, "B V heads N d"],
    value: Float[Tensor, "B V heads N d"],
    mask: Bool[Tensor, "B V N"],
) -> Float[Tensor, "B V heads N d"]:
    bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, torch.finfo(query.dtype).min)
    attended = F.scaled_dot_product_attention(
        query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), attn_mask=bias.flatten(0, 1)[:, None, None]
    )
    return attended.unflatten(0, mask.shape[:2])


def _across(
    query: Float[Tensor, "B V heads N d"],
    key: Float[Tensor, "B V heads N d"],
    value: Float[Tensor, "B V heads N d"],
    mask: Bool[Tensor, "B V N"],
) -> Float[Tensor, "B V heads N d"]:
    """One attention of variates to variates for all tokens, by the means of their queries and keys over time."""
    valid = rearrange(mask, "b v n -> b v 1 n 1").to(query.dtype)
    count = valid.sum(dim=-2).clamp(min=1)
    of_queries, of_keys = ((part * valid).sum(dim=-2) / count for part in (query, key))
    scores = torch.einsum("b v h d, b u h d -> b h v u", of_queries, of_keys) / math.sqrt(query.shape[-1])
    return torch.einsum("b h v u, b u h n d -> b v h n d", scores.softmax(dim=-1), value * valid)


def _sines(width: int) -> Float[Tensor, "1 1 T D"]:
    """Positions before they are learned."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    angles = torch.arange(POSITIONS).unsqueeze(-1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[None, None]


if __name__ == "__main__":
    from darts_msft.backbones.units_checkpoint import main

    main()
