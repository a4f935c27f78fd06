"""CoCa's layout, open_clip's: its tensors, and the sizes that a checkpoint tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from multiway.errors import UserError
from multiway.systems.coca_config import (
    OFFICIAL,
    CoCaConfig,
    Form,
    MultimodalConfig,
    PoolerConfig,
    coca_tokenizer,
)
from multiway.weights.clip import depth, resblocks, text_sizes, vision, vision_sizes
from multiway.weights.keymap import LEAD1, STACK, TRANSPOSE, Entry, Layout, linear, pairs
from multiway.weights.parts import the_vit


def layout(config: CoCaConfig) -> Layout:
    """open_clip's `CoCa`: `visual.attn_pool`, `text`, `text_decoder.resblocks.i` and `cross_attn.i`.

    Raises:
        UserError: the model has parts that open_clip has no place for.
    """
    _fits(config)
    image = the_vit(config.image)
    places, rows = "text.positional_embedding", config.text.positions
    entries = [
        Entry("logit_scale", ("logit_scale",)),
        *vision(image.depth),
        *linear("pooler.norm", "visual.ln_post"),
        Entry("image_proj.weight", ("visual.proj",), TRANSPOSE),
        Entry("words.words.weight", ("text.token_embedding.weight",)),
        Entry("words.positions", (places,), share=(0, rows, rows + 1)),
        Entry("words.cls_position", (places,), share=(rows, rows + 1, rows + 1)),
        Entry("words.cls_token", ("text.cls_emb",)),
        *linear("text_norm", "text.ln_final"),
        Entry("text_proj.weight", ("text.text_projection",), TRANSPOSE),
        *linear("norm", "text_decoder.ln_final"),
        Entry("word_head.weight", ("text_decoder.text_projection",), TRANSPOSE),
        *resblocks("text", "text.transformer", config.text.layers),
    ]
    width, seen = config.text.width, image.width
    if config.pooler.form != "none":
        entries += _pool("pooler.captions.", "visual.attn_pool.", joint=seen == width)
    if config.pooler.form in ("cascade", "parallel"):
        entries += _pool("pooler.contrast.", "visual.attn_pool_contrastive.", joint=True)
    names = [
        ("norm_cross", "ln_1"),
        ("cross.norm", "ln_1_kv"),
        ("cross.out", "attn.out_proj"),
        ("norm2.all", "ln_2"),
        ("ffn.all.fc1", "mlp.c_fc"),
        ("ffn.all.fc2", "mlp.c_proj"),
    ]
    middle = {"norm2.all": "norm_middle.all", "ffn.all.fc1": "ffn_middle.all.fc1"}
    middle["ffn.all.fc2"] = "ffn_middle.all.fc2"
    entries += resblocks("multimodal", "text_decoder", config.multimodal.layers, renamed=middle)
    for i in range(config.multimodal.layers):
        ours, theirs = f"multimodal.{i}.", f"text_decoder.cross_attn.{i}."
        entries += pairs(ours, theirs, names)
        entries += _cross(f"{ours}cross.", f"{theirs}attn.", joint=True)
    return Layout(tuple(entries))


def _fits(config: CoCaConfig) -> None:
    own = config.multimodal
    wrong = {
        "experts": config.experts,
        "one feed-forward a multimodal layer": own.feed_forwards != 2,
        "no norm of pooled tokens in a multimodal layer": not own.context_norm,
        "features of another width than the text's": config.pooler.form != "none"
        and config.embed_dim != config.text.width,
        "a cascade or parallel pooler over tokens of another width": config.pooler.form
        in ("cascade", "parallel")
        and the_vit(config.image).width != config.text.width,
    }
    found = [name for name, is_so in wrong.items() if is_so]
    if found:
        raise UserError(
            f"open_clip's CoCa has no place for {found[0]}: keep this model as a folder (multiway.save)"
        )


def _pool(ours: str, theirs: str, *, joint: bool) -> list[Entry]:
    return [
        Entry(f"{ours}query", (f"{theirs}query",), LEAD1),
        *linear(f"{ours}norm_query", f"{theirs}ln_q"),
        *linear(f"{ours}norm", f"{theirs}ln_k"),
        *linear(f"{ours}attention.out", f"{theirs}attn.out_proj"),
        *_cross(f"{ours}attention.", f"{theirs}attn.", joint=joint),
    ]


def _cross(ours: str, theirs: str, *, joint: bool) -> list[Entry]:
    """`nn.MultiheadAttention`: queries, keys and values in one matrix, or in three where widths differ."""
    fused = ["bias", "weight"] if joint else ["bias"]
    entries = [
        Entry(f"{ours}{name}.{part}", (f"{theirs}in_proj_{part}",), share=share)
        for part in fused
        for name, share in (("query", (0, 1, 3)), ("key_value", (1, 3, 3)))
    ]
    if not joint:
        entries.append(Entry(f"{ours}query.weight", (f"{theirs}q_proj_weight",)))
        apart = tuple(f"{theirs}{part}_proj_weight" for part in "kv")
        entries.append(Entry(f"{ours}key_value.weight", apart, STACK))
    return entries


def config_of(tensors: Mapping[str, Tensor]) -> CoCaConfig:
    """The sizes of an open_clip checkpoint; heads are 64 wide, and 8 of a pooler (its published configs).

    The released weights were trained with what `compat` names.
    """
    decoder = {key.removeprefix("text_decoder."): t for key, t in tensors.items() if "text_decoder." in key}
    form: Form = "none"
    if "visual.attn_pool.query" in tensors:
        form = "cascade" if "visual.attn_pool_contrastive.query" in tensors else "single"
    text = text_sizes(tensors, "text.")
    query = tensors.get("visual.attn_pool.query")
    return CoCaConfig(
        image=vision_sizes(tensors, pool="none"),
        text=replace(text, positions=text.positions - 1),
        tokenizer=coca_tokenizer(text.positions - 1),
        multimodal=MultimodalConfig(
            layers=depth(decoder, ""),
            heads=text.heads,
            hidden=decoder["resblocks.0.mlp.c_fc.bias"].shape[0],
            feed_forwards=2,
            context_norm=True,
        ),
        pooler=PoolerConfig(form=form, queries=256 if query is None else len(query), heads=8),
        embed_dim=tensors["text.text_projection"].shape[1],
        compat=OFFICIAL,
    )
