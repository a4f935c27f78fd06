"""VLMo's three stages (section 3.3): what each one learns from, and what stands still meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

from multiway.systems.vlmo_config import MultiwayConfig


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        system: the system that is trained. learns: from what, by what.
        frozen: names of parts that stand still; `*` is any layer.
    """

    system: str
    learns: str
    frozen: tuple[str, ...] = ()


#: In this order; each starts from the model of the one before.
STAGES = {
    "image": Stage("beit", "attention and picture experts, by masked image modelling"),
    "text": Stage(
        "vlmo",
        "words and text experts, by masked language modelling of texts alone",
        (
            "transformer.cls_token",
            "transformer.patches",
            "transformer.positions",
            "transformer.blocks.*.attention",
            "transformer.blocks.*.norm1",
            "transformer.blocks.*.gamma1",
            "transformer.blocks.*.gamma2",
            "transformer.blocks.*.ffn.image",
            "transformer.blocks.*.norm2.image",
            "pooler",
        ),
    ),
    "pairs": Stage("vlmo", "all of it and the joint experts, by ITC twice, ITM and MLM of pairs"),
}


def frozen(stage: str, config: MultiwayConfig) -> tuple[str, ...]:
    """`train.freeze` of a stage: the parts of it that this network has.

    Source: run.py of the official code, which names what is trained instead: text_embeddings,
    token_type_embeddings, mlp_text, norm2_text, mlm_score, relative_position_bias_table, transformer.norm.
    """
    absent = ("transformer.positions",) if config.positions == "relative" else ()
    if config.layer_scale is None:
        absent += ("transformer.blocks.*.gamma1", "transformer.blocks.*.gamma2")
    return tuple(name for name in STAGES[stage].frozen if name not in absent)
