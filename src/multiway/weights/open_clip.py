"""open_clip's folders, in and out: open_clip_config.json beside the weights of a CLIP or a CoCa.

multiway.load("folder")                        open_clip.create_model("local-dir:folder")
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from multiway.errors import UserError
from multiway.systems.base import System
from multiway.systems.clip import CLIP, CLIPConfig, CLIPTextConfig
from multiway.systems.coca import CoCa
from multiway.systems.coca_config import OFFICIAL, CoCaConfig, Form, MultimodalConfig, PoolerConfig
from multiway.systems.vit import ViTConfig
from multiway.text import TokenizerConfig
from multiway.weights import clip, coca
from multiway.weights.aside import replacing
from multiway.weights.keymap import Layout, to_theirs
from multiway.weights.parts import the_vit

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_model.pt")

#: open_clip's `attentional_pool`.
FORMS: dict[Any, Form] = {False: "none", True: "single", "cascade": "cascade", "parallel": "parallel"}

#: open_clip's defaults; what a config leaves out has these values, and what is not here changes no network.
VISION = {"image_size": 224, "layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16}
POOL = {"attentional_pool": False, "attn_pooler_queries": 256, "attn_pooler_heads": 8}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
#: Options whose only value here is open_clip's default.
FIXED = {
    "ls_init_value": None,
    "no_ln_pre": False,
    "pos_embed_type": "learnable",
    "final_ln_after_pool": False,
    "pad_id": 0,
    "no_causal_mask": False,
    "proj_bias": False,
    "proj_type": "linear",
    "act_kwargs": None,
    "norm_kwargs": None,
    "block_type": None,
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
    "timm_model_name": None,
    "hf_model_name": None,
}


def is_open_clip(folder: Path) -> bool:
    """Whether a folder has open_clip's config."""
    return (folder / CONFIG).is_file()


def read_config(folder: Path) -> CLIPConfig | CoCaConfig:
    """The config of a folder.

    Raises:
        UserError: the file is damaged, or its model has a part that is not known here.
    """
    try:
        values = json.loads((folder / CONFIG).read_text())
        looks = values.get("preprocess_cfg", {})
        return config_of(values.get("model_cfg", values), looks)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{folder / CONFIG} can't be read ({error}): take another copy") from None


def config_of(values: Mapping[str, Any], looks: Mapping[str, Any] | None = None) -> CLIPConfig | CoCaConfig:
    """Our config of a `model_cfg`.

    Args:
        looks: its `preprocess_cfg`: mean, std and resize_mode of pictures.

    Raises:
        UserError: the model has a part, or its pictures a preparation, that is not known here.
    """
    has_captions = "multimodal_cfg" in values
    if values.get("custom_text", False) and not has_captions:
        raise UserError("a CLIP of open_clip with custom_text is not known here: take one without it")
    vision, text = _known(values, "vision_cfg", VISION | POOL), _known(values, "text_cfg", TEXT)
    gelu, pool = values.get("quick_gelu", False), FORMS[vision["attentional_pool"]]
    if not has_captions and pool != "none":
        raise UserError("a CLIP of open_clip with attentional_pool is not known here: take one without it")
    size = vision["image_size"]
    image = ViTConfig(
        image_size=size if isinstance(size, int) else tuple(size),
        patch_size=vision["patch_size"],
        width=vision["width"],
        depth=vision["layers"],
        heads=vision["width"] // vision["head_width"],
        hidden=int(vision["width"] * vision["mlp_ratio"]),
        eps=1e-5,
        clip_stem=True,
        pool="none" if has_captions else "cls",
        quick_gelu=gelu,
        **_looks(looks or {}),
    )
    words = CLIPTextConfig(
        vocab_size=text["vocab_size"],
        width=text["width"],
        layers=text["layers"],
        heads=text["heads"],
        hidden=int(text["width"] * text["mlp_ratio"]),
        positions=text["context_length"],
        quick_gelu=gelu,
    )
    shared: dict[str, Any] = {
        "image": image,
        "text": words,
        "tokenizer": TokenizerConfig(
            kind="clip_bpe", vocab="clip", cleaning="none", max_length=words.positions
        ),
        "embed_dim": values["embed_dim"],
    }
    if not has_captions:
        return CLIPConfig(**shared)
    if not text.get("embed_cls", False):
        raise UserError("a CoCa of open_clip without embed_cls is not known here: take one with it")
    own = {"layers": 12, "heads": 8} | values["multimodal_cfg"]
    dropped = {"shifted_padding_mask"} if text.get("correct_cls_mask", False) else set()
    return CoCaConfig(
        **shared,
        # open_clip gives no ratio on to this half: it is 4.
        multimodal=MultimodalConfig(
            layers=own["layers"],
            heads=own["heads"],
            hidden=4 * words.width,
            feed_forwards=2,
            context_norm=True,
        ),
        pooler=PoolerConfig(
            form=pool, queries=vision["attn_pooler_queries"], heads=vision["attn_pooler_heads"]
        ),
        compat=tuple(quirk for quirk in OFFICIAL if quirk not in dropped),
    )


def _looks(looks: Mapping[str, Any]) -> dict[str, Any]:
    """Our `mean`, `std` and `fit` of a `preprocess_cfg`; what it leaves out is open_clip's default."""
    given = {"resize_mode": "shortest", "interpolation": "bicubic"}
    given |= {name: value for name, value in looks.items() if value is not None}
    fit = {"shortest": "crop", "squash": "squash"}.get(given["resize_mode"])
    # "random" is for training: open_clip evaluates bicubically then
    if fit is None or given["interpolation"] not in ("bicubic", "random"):
        raise UserError(
            f"pictures of open_clip with resize_mode {given['resize_mode']!r} and interpolation "
            f"{given['interpolation']!r} are not known here: take shortest or squash, and bicubic"
        )
    return {"fit": fit, **{name: tuple(given[name]) for name in ("mean", "std") if name in given}}


def _known(values: Mapping[str, Any], part: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A part's values, defaults filled in."""
    given = {**defaults, **values[part]}
    for name, value in given.items():
        if name in FIXED and value != FIXED[name]:
            raise UserError(f"a model of open_clip with {part}.{name} {value!r} is not known here")
    return given


def values_of(config: CLIPConfig | CoCaConfig) -> dict[str, Any]:
    """The `model_cfg` of our config.

    Raises:
        UserError: open_clip has no such model.
    """
    image, text = the_vit(config.image), config.text
    captions = isinstance(config, CoCaConfig)
    wrong = {
        "norms of another eps than 1e-5": image.eps != 1e-5,
        "an image tower without CLIP's stem": not image.clip_stem,
        "other activations in the tower than in the text": image.quick_gelu != text.quick_gelu,
        "heads of unequal width": image.width % image.heads != 0,
        "another vocabulary than CLIP's": config.tokenizer.kind != "clip_bpe",
    }
    if captions:
        wrong["multimodal layers of another ratio than 4"] = config.multimodal.hidden != 4 * text.width
    for name, is_so in wrong.items():
        if is_so:
            raise UserError(f"open_clip has no place for {name}: keep this model as a folder (multiway.save)")
    vision: dict[str, Any] = {
        "image_size": image.image_size,
        "layers": image.depth,
        "width": image.width,
        "head_width": image.width // image.heads,
        "mlp_ratio": image.hidden / image.width,
        "patch_size": image.patch_size,
    }
    words: dict[str, Any] = {
        "context_length": text.positions,
        "vocab_size": text.vocab_size,
        "width": text.width,
        "heads": text.heads,
        "layers": text.layers,
        "mlp_ratio": text.hidden / text.width,
    }
    values = {"embed_dim": config.embed_dim, "quick_gelu": text.quick_gelu}
    if not captions:
        return {**values, "vision_cfg": vision, "text_cfg": words}
    pools = {form: value for value, form in FORMS.items()}
    vision |= {
        "attentional_pool": pools[config.pooler.form],
        "attn_pooler_queries": config.pooler.queries,
        "attn_pooler_heads": config.pooler.heads,
        "output_tokens": True,
    }
    right = "shifted_padding_mask" not in config.compat
    words |= {"embed_cls": True, "output_tokens": True, **({"correct_cls_mask": True} if right else {})}
    own = {
        "context_length": text.positions,
        "vocab_size": text.vocab_size,
        "width": text.width,
        "heads": config.multimodal.heads,
        "layers": config.multimodal.layers,
    }
    return {**values, "vision_cfg": vision, "text_cfg": words, "multimodal_cfg": own, "custom_text": True}


def layout_of(config: CLIPConfig | CoCaConfig) -> Layout:
    """The layout of a config's weights."""
    return coca.layout(config) if isinstance(config, CoCaConfig) else clip.open_clip_layout(config)


def weights_of(folder: Path) -> Path:
    """The file of weights in a folder.

    Raises:
        UserError: there is none.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder} has {CONFIG} and no weights: add {WEIGHTS[0]}")


def write(model: System, out: Path) -> None:
    """A folder that open_clip reads, weights, config and how pictures are prepared.

    Raises:
        UserError: open_clip has no such model.
    """
    if not isinstance(model, CLIP | CoCa):
        raise UserError(f"open_clip has no {type(model).__name__}: a CLIP or a CoCa can leave for it")
    values = values_of(model.config)
    tensors = to_theirs(layout_of(model.config), model.state_dict())
    looks = {
        "mean": list(model.image_mean),
        "std": list(model.image_std),
        "interpolation": "bicubic",
        "resize_mode": "shortest" if model.image_fit == "crop" else "squash",
    }
    with replacing(out) as aside:
        (aside / CONFIG).write_text(
            json.dumps({"model_cfg": values, "preprocess_cfg": looks}, indent=2) + "\n"
        )
        kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(kept, aside / WEIGHTS[0], metadata={"format": "pt"})
