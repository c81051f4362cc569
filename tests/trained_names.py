"""What trains, as the methods' papers say: names written out by hand for the contract's checkpoints.

Nothing here is asked of a method: the tables would not notice if one declared, and trained, too much. `{a,b}` stands
for a or b, and `*` for anything. A new backbone, and a new method, is one more entry.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

Groups = dict[str, tuple[str, ...]]  # by learning-rate group, patterns of names

MOIRAI_LAYERS = "backbone.module.encoder.layers.{0,1}"
MOIRAI_HEAD = "backbone.module.param_proj.*"
MOIRAI_BODY = (
    "backbone.module.mask_encoding.weight",
    "backbone.module.in_proj.{weight,bias}",
    f"{MOIRAI_LAYERS}.self_attn.{{q,k,v,out}}_proj.weight",
    f"{MOIRAI_LAYERS}.self_attn.{{q,k}}_norm.weight",
    f"{MOIRAI_LAYERS}.ffn.{{fc1,fc2,fc_gate}}.weight",
    f"{MOIRAI_LAYERS}.{{norm1,norm2}}.weight",
    "backbone.module.encoder.norm.weight",
)  # not the bias between variates, which has no effect
MOIRAI_TUNED = (
    f"{MOIRAI_LAYERS}.self_attn.out_proj.weight",
    f"{MOIRAI_LAYERS}.self_attn.{{q,k}}_norm.weight",
    f"{MOIRAI_LAYERS}.{{norm1,norm2}}.weight",
    "backbone.module.encoder.norm.weight",
)
MOIRAI_LORA = ("method.lora.{0,1}.{0,1,2}.{q,k,v}_proj.{a,b}",)
MOIRAI_LINEARS = f"{MOIRAI_LAYERS}.self_attn.{{q,k,v}}_proj"
ADAPTERS_AND_AGGREGATOR = (
    "method.input_adapters.{0,1,2}.{weight,bias}",
    "method.aggregators.{0,1}.{c2f,f2c}.{0,1}.{weight,bias}",
)
FLAT_HEADS = ("new_heads.{0,1,2}.{weight,bias}",)
CHRONOS_LAYERS, CHRONOS_HEAD = "backbone.encoder.block.{0,1}.layer", "backbone.output_patch_embedding.*"
CHRONOS_TUNED = (
    f"{CHRONOS_LAYERS}.{{0,1}}.self_attention.o.weight",
    f"{CHRONOS_LAYERS}.{{0,1,2}}.layer_norm.weight",
    "backbone.encoder.final_layer_norm.weight",
)
CHRONOS_BODY = (
    *CHRONOS_TUNED,
    "backbone.shared.weight",
    "backbone.input_patch_embedding.{hidden,output,residual}_layer.{weight,bias}",
    f"{CHRONOS_LAYERS}.0.self_attention.{{q,k,v}}.weight",
    f"{CHRONOS_LAYERS}.1.self_attention.v.weight",
    f"{CHRONOS_LAYERS}.2.mlp.{{wi,wo}}.weight",
)  # not q and k between variates: they are series of their own
CHRONOS_LORA = ("method.lora.{0,1}.{0,1,2}.{time_q,time_k,time_v,group_v}.{a,b}",)
CHRONOS_LINEARS = (f"{CHRONOS_LAYERS}.0.self_attention.{{q,k,v}}", f"{CHRONOS_LAYERS}.1.self_attention.v")
PATCHTST_LAYERS, PATCHTST_HEAD = "backbone.backbone.blocks.{0,1}", "backbone.backbone.out_layer.*"
PATCHTST_TUNED = (f"{PATCHTST_LAYERS}.{{attn.proj,norm1,norm2}}.{{weight,bias}}",)
PATCHTST_BODY = (
    *PATCHTST_TUNED,
    "backbone.backbone.pos_embed.embedding.weight",
    "backbone.backbone.in_layer.{layer1,layer2,residual}.{weight,bias}",
    f"{PATCHTST_LAYERS}.attn.qkv.{{weight,bias}}",
    f"{PATCHTST_LAYERS}.mlp.layers.*.{{weight,bias}}",
)
PATCHTST_LORA = ("method.lora.{0,1}.{0,1,2}.qkv.{a,b}",)
PATCHTST_LINEARS = f"{PATCHTST_LAYERS}.attn.qkv"
MOMENT_LAYERS = "backbone.module.encoder.block.{0,1}"
MOMENT_TUNED = (
    f"{MOMENT_LAYERS}.layer.0.SelfAttention.o.weight",
    f"{MOMENT_LAYERS}.layer.{{0,1}}.layer_norm.weight",
    "backbone.module.encoder.final_layer_norm.weight",
)
MOMENT_BODY = (
    *MOMENT_TUNED,
    "backbone.module.patch_embedding.value_embedding.weight",
    f"{MOMENT_LAYERS}.layer.0.SelfAttention.{{q,k,v}}.weight",
    "backbone.module.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    f"{MOMENT_LAYERS}.layer.1.DenseReluDense.{{wi_0,wi_1,wo}}.weight",
)
MASKED_MOMENT_BODY = (*MOMENT_BODY, "backbone.module.patch_embedding.mask_embedding")
MOMENT_HEAD = ("backbone.module.head.linear.{weight,bias}",)
MOMENT_LINEARS = f"{MOMENT_LAYERS}.layer.0.SelfAttention.{{q,k,v}}"
MOMENT_LORA = ("method.lora.{0,1}.{0,1,2}.{q,k,v}.{a,b}",)
UNITS_LAYERS = "backbone.blocks.{0,1}"
UNITS_TUNED = (
    f"{UNITS_LAYERS}.seq_att_block.attn_seq.proj.{{weight,bias}}",
    f"{UNITS_LAYERS}.var_att_block.attn_var.proj.{{weight,bias}}",
    f"{UNITS_LAYERS}.{{seq,var}}_att_block.norm1.{{weight,bias}}",
    f"{UNITS_LAYERS}.{{seq,var}}_att_block.ls1.gate.{{weight,bias}}",
    f"{UNITS_LAYERS}.dynamic_mlp.{{norm2,ls2.gate}}.{{weight,bias}}",
)
UNITS_BODY = (
    *UNITS_TUNED,
    "backbone.patch_embeddings.value_embedding.weight",
    "backbone.position_embedding.pe",
    "backbone.prompt2forecat.{weights,bias}",
    f"{UNITS_LAYERS}.seq_att_block.attn_seq.qkv.weight",
    f"{UNITS_LAYERS}.var_att_block.attn_var.qkv.weight",
    f"{UNITS_LAYERS}.dynamic_mlp.mlp.{{fc1,fc2}}.{{weight,bias}}",
    f"{UNITS_LAYERS}.dynamic_mlp.mlp.{{seq,prompt}}_fc.{{weights,bias}}",
)
UNITS_TOKENS = ("backbone.{prompt,mask}_token",)
UNITS_HEAD = (
    "backbone.forecast_head.{proj_in,proj_out,mlp.fc1,mlp.fc2}.{weight,bias}",
    "backbone.forecast_head.pos_proj.{weights,bias}",
)
UNITS_LINEARS = (f"{UNITS_LAYERS}.seq_att_block.attn_seq.qkv", f"{UNITS_LAYERS}.var_att_block.attn_var.qkv")
UNITS_LORA = ("method.lora.{0,1}.{0,1,2}.{seq,var}_qkv.{a,b}",)
OMEGA: Groups = {"omega": ("scale_weights.omega",)}


def _methods(
    tuned: tuple[str, ...],
    body: tuple[str, ...],
    head: tuple[str, ...],
    own: tuple[str, ...],
    linears: tuple[str, ...],
    tokens: tuple[str, ...] = (),
    new_head: bool = False,
) -> dict[str, Groups]:
    """What every method trains of an architecture.

    `tuned` and `body` of the pretrained layers by MSFT and by full finetuning, `own` MSFT's LoRA, `linears` those that
    peft wraps, `tokens` a data set's own, which are pretrained. A `new_head` trains with every method.
    """
    adapted: Groups = {"new": (*ADAPTERS_AND_AGGREGATOR, *tokens), "lora": own, "head": head, **OMEGA}
    full: Groups = {"pretrained": (*body, *tokens), "head": head, **OMEGA}
    always: Groups = {"head": head, **OMEGA} if new_head else OMEGA
    return {
        "msft": {"pretrained": tuned, **adapted},
        "msft_full": {"pretrained": body, **adapted},
        **({} if new_head else {"zero_shot": {}}),
        "full": full,
        "scratch": full,
        "linear_probe": {"head": head, **OMEGA},
        "prompt": {"new": tokens or ("method.tokens",), **always},
        "lora": {"lora": tuple(f"{one}.lora_{{A,B}}.default.weight" for one in linears), **always},
        "adalora": {"lora": tuple(f"{one}.lora_{{A,B,E}}.default" for one in linears), **always},
    }


TRAINED_NAMES: dict[str, dict[str, Groups]] = {
    "moirai": _methods(MOIRAI_TUNED, MOIRAI_BODY, (MOIRAI_HEAD,), MOIRAI_LORA, (MOIRAI_LINEARS,)),
    "chronos2": _methods(CHRONOS_TUNED, CHRONOS_BODY, (CHRONOS_HEAD,), CHRONOS_LORA, CHRONOS_LINEARS),
    "patchtst_fm": _methods(PATCHTST_TUNED, PATCHTST_BODY, (PATCHTST_HEAD,), PATCHTST_LORA, (PATCHTST_LINEARS,)),
    "moment": _methods(MOMENT_TUNED, MOMENT_BODY, FLAT_HEADS, MOMENT_LORA, (MOMENT_LINEARS,), new_head=True),
    "moment_masked": _methods(MOMENT_TUNED, MASKED_MOMENT_BODY, MOMENT_HEAD, MOMENT_LORA, (MOMENT_LINEARS,)),
    "units": _methods(UNITS_TUNED, UNITS_BODY, UNITS_HEAD, UNITS_LORA, UNITS_LINEARS, UNITS_TOKENS),
}


def patterns_of(architecture: str, method: str) -> list[tuple[str, str]]:
    """(pattern, group) of all that trains, without braces."""
    methods = TRAINED_NAMES.get(architecture, {})
    assert method in methods, f"write in {__name__}.py what method={method!r} trains on the architecture {architecture}"
    groups = methods[method].items()
    return [(one, group) for group, patterns in groups for pattern in patterns for one in _without_braces(pattern)]


def matching(names: Iterable[str], patterns: list[tuple[str, str]]) -> dict[str, str]:
    """The group of every name that a pattern matches."""
    return {name: group for name in names for pattern, group in patterns if fnmatchcase(name, pattern)}


def _without_braces(pattern: str) -> list[str]:
    before, brace, rest = pattern.partition("{")
    if not brace:
        return [pattern]
    choices, _, after = rest.partition("}")
    return [one for choice in choices.split(",") for one in _without_braces(before + choice + after)]
