"""open_clip's folders, in and out: open_clip_config.json beside the weights of a CLIP or a CoCa.

multiway.load("folder")                        open_clip.create_model("local-dir:folder")
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from multiway.errors import UserError
from multiway.systems.base import System
from multiway.systems.clip import CLIP, CLIPConfig, CLIPTextConfig, clip_tokenizer
from multiway.systems.coca import CoCa
from multiway.systems.coca_config import OFFICIAL, CoCaConfig, Form, MultimodalConfig, PoolerConfig, Quirk
from multiway.systems.pictures import transform_of
from multiway.systems.vit import ViTConfig
from multiway.weights import clip, coca
from multiway.weights.aside import replacing
from multiway.weights.keymap import Layout, to_theirs
from multiway.weights.parts import the_vit
from multiway.weights.strict import same_network

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_model.pt")

#: open_clip's `attentional_pool`.
FORMS: dict[Any, Form] = {False: "none", True: "single", "cascade": "cascade", "parallel": "parallel"}

#: open_clip's defaults: what a config leaves out has these values.
VISION = {"image_size": 224, "layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16}
POOL = {"attentional_pool": False, "attn_pooler_queries": 256, "attn_pooler_heads": 8}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
MULTIMODAL = {"width": 512, "heads": 8, "layers": 12}
#: Options of both towers whose only value here is open_clip's default.
BOTH = {
    "ls_init_value": None,
    "final_ln_after_pool": False,
    "act_kwargs": None,
    "norm_kwargs": None,
    "block_type": None,
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
}
#: All such options, by part.
FIXED: dict[str, dict[str, Any]] = {
    "vision_cfg": BOTH
    | {"no_ln_pre": False, "pos_embed_type": "learnable", "pool_type": "tok", "timm_model_name": None},
    "text_cfg": BOTH
    | {
        "pad_id": 0,
        "no_causal_mask": False,
        "pool_type": "argmax",
        "proj_bias": False,
        "proj_type": "linear",
        "hf_model_name": None,
        "hf_tokenizer_name": None,
        "tokenizer_kwargs": None,
    },
    "multimodal_cfg": {"ls_init_value": None},
    "model_cfg": {"init_logit_bias": None, "nonscalar_logit_scale": False, "pad_id": 0},
}
#: What changes no network: options of training, of towers that are refused by name, and what open_clip's code
#: reads nowhere (`MultimodalTransformer` is made of widths, heads and layers alone).
HARMLESS = {
    "vision_cfg": {
        *("output_tokens", "patch_dropout", "timm_model_pretrained", "timm_pool", "timm_proj"),
        *("timm_proj_bias", "timm_drop", "timm_drop_path"),
    },
    "text_cfg": {
        *("output_tokens", "embed_cls", "correct_cls_mask", "eos_id", "tokenizer_mode"),
        *("hf_model_pretrained", "hf_proj_type", "hf_pooler_type"),
    },
    "multimodal_cfg": {
        *("context_length", "vocab_size", "mlp_ratio", "dim_head", "n_queries", "attn_pooler_heads"),
        *("embed_cls", "output_tokens"),
    },
    "model_cfg": {
        *("embed_dim", "vision_cfg", "text_cfg", "multimodal_cfg", "quick_gelu", "custom_text"),
        *("init_logit_scale", "cast_dtype"),
    },
}
#: The end token of CLIP's vocabulary, its highest id: `pool_type` "eos" then finds what "argmax" finds.
END = 49407

#: What open_clip computes otherwise of a model without this in `compat`.
DIFFERENT: dict[Quirk, str] = {
    "shifted_padding_mask": "features of padded texts",
    "zero_is_padding": 'features and captions of texts with "!"',
    "beams_sum_logits": "beams",
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
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
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
    _check(values, "model_cfg", {})
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
        "tokenizer": clip_tokenizer(words.positions),
        "embed_dim": values["embed_dim"],
    }
    if not has_captions:
        return CLIPConfig(**shared)
    if not text.get("embed_cls", False):
        raise UserError("a CoCa of open_clip without embed_cls is not known here: take one with it")
    own = _known(values, "multimodal_cfg", MULTIMODAL)
    if own["width"] != words.width:
        raise UserError(
            f"a CoCa of open_clip with multimodal_cfg.width {own['width']} and text_cfg.width {words.width} "
            "is not known here: take one with equal widths"
        )
    # No open_clip of today reads it; folders that this library wrote before have it.
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
    """Our config of a `preprocess_cfg`'s pictures; what it leaves out is open_clip's default."""
    given = {"resize_mode": "shortest", "interpolation": "bicubic"}
    given |= {name: value for name, value in looks.items() if value is not None}
    fit = {"shortest": "crop", "squash": "squash"}.get(given["resize_mode"])
    # "random" is for training: open_clip evaluates bicubically then
    resample = {"random": "bicubic"}.get(given["interpolation"], given["interpolation"])
    if fit is None or resample not in ("bicubic", "bilinear"):
        raise UserError(
            f"pictures of open_clip with resize_mode {given['resize_mode']!r} and interpolation "
            f"{given['interpolation']!r} are not known here: take shortest or squash, bicubic or bilinear"
        )
    found = {"fit": fit, "resample": resample}
    return found | {name: tuple(given[name]) for name in ("mean", "std") if name in given}


def _known(values: Mapping[str, Any], part: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A part's values, defaults filled in."""
    given = {**defaults, **values[part]}
    _check(given, part, defaults)
    for name in ("layers", "patch_size"):  # a list of layers is a ResNet's
        if name in given and not isinstance(given[name], int):
            raise UserError(
                f"a model of open_clip with {part}.{name} {given[name]!r} is not known here: take a ViT "
                f"whose {name} is one whole number"
            )
    return given


def _check(given: Mapping[str, Any], part: str, known: Mapping[str, Any]) -> None:
    """Nothing in a part would make another network than ours."""
    fixed = FIXED[part]
    for name, value in given.items():
        if name in fixed:
            alike = name == "pool_type" and value == "eos" and given.get("eos_id") == END
            if value != fixed[name] and not alike:
                raise UserError(
                    f"a model of open_clip with {part}.{name} {value!r} is not known here: take one with "
                    f"{fixed[name]!r}"
                )
        elif name not in known and name not in HARMLESS[part]:
            raise UserError(f"a model of open_clip with {part}.{name} is not known here: take one without it")


def values_of(config: CLIPConfig | CoCaConfig) -> dict[str, Any]:
    """The `model_cfg` of our config.

    Raises:
        UserError: open_clip has no such model.
    """
    image, text = the_vit(config.image), config.text
    if config.tokenizer.kind != "clip_bpe":
        raise UserError(
            "open_clip has no place for another vocabulary than CLIP's: keep this model as a folder "
            "(multiway.save)"
        )
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
    values |= {"vision_cfg": vision, "text_cfg": words}
    if isinstance(config, CoCaConfig):
        pools = {form: value for value, form in FORMS.items()}
        vision |= {
            "attentional_pool": pools[config.pooler.form],
            "attn_pooler_queries": config.pooler.queries,
            "attn_pooler_heads": config.pooler.heads,
            "output_tokens": True,
        }
        words |= {"embed_cls": True, "output_tokens": True}
        own = {
            "context_length": text.positions,
            "vocab_size": text.vocab_size,
            "width": text.width,
            "heads": config.multimodal.heads,
            "layers": config.multimodal.layers,
        }
        values |= {"multimodal_cfg": own, "custom_text": True}
    same_network(config, config_of(values), "open_clip")
    return values


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

    A warning says what of a CoCa without all of `coca_config.OFFICIAL` open_clip computes otherwise.

    Raises:
        UserError: open_clip has no such model.
    """
    if not isinstance(model, CLIP | CoCa):
        raise UserError(f"open_clip has no {type(model).__name__}: a CLIP or a CoCa can leave for it")
    how = transform_of(model)
    if how.crop_share != 1:
        raise UserError(
            "open_clip crops nothing from what it resizes: set image.crop_share to 1, or keep this model as "
            "a folder (multiway.save)"
        )
    values = values_of(model.config)
    tensors = to_theirs(layout_of(model.config), model.state_dict())
    looks = {
        "mean": list(model.image_mean),
        "std": list(model.image_std),
        "interpolation": how.resample,
        "resize_mode": "shortest" if model.image_fit == "crop" else "squash",
    }
    if isinstance(model, CoCa) and (missing := [q for q in OFFICIAL if q not in model.config.compat]):
        warnings.warn(
            f"open_clip computes {' and '.join(DIFFERENT[q] for q in missing)} of this CoCa otherwise, as "
            f"its code does with every model: train with compat={list(OFFICIAL)} for the same ones",
            stacklevel=2,
        )
    with replacing(out) as aside:
        (aside / CONFIG).write_text(
            json.dumps({"model_cfg": values, "preprocess_cfg": looks}, indent=2) + "\n"
        )
        kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(kept, aside / WEIGHTS[0], metadata={"format": "pt"})
