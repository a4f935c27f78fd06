"""How pictures are prepared for a model, as files of transformers' folders say: in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multiway.errors import UserError
from multiway.systems.base import System
from multiway.systems.pictures import transform_of

CONFIG = "preprocessor_config.json"


#: Where a processor of texts and pictures keeps the same (transformers 5), under `image_processor`.
PROCESSOR = "processor_config.json"

#: PIL's numbers.
RESAMPLES = {2: "bilinear", 3: "bicubic"}


def read(folder: Path, model_type: str) -> dict[str, Any]:
    """`mean`, `std`, `fit`, `crop_share` and `resample` of our config, as far as a folder's file says; none
    of them where there is no file.

    Args:
        model_type: what transformers calls the model, whose processor counts where the file names none.

    Raises:
        UserError: a file is damaged, or a picture is cropped to another shape than it is resized to, or is
            resized neither bicubically nor bilinearly.
    """
    path = folder / PROCESSOR
    try:
        values = json.loads(path.read_text()).get("image_processor") if path.is_file() else None
        if values is None:
            path = folder / CONFIG
            if not path.is_file():
                return {}
            values = json.loads(path.read_text())
        kind = values.get("image_processor_type") or values.get("feature_extractor_type") or model_type
        found = _fit(values, path, clip=kind.lower().startswith("clip"))
        code = values.get("resample", 2 if kind.lower().startswith("vit") else 3)  # ViT's own default
        if code not in RESAMPLES:
            raise UserError(
                f"{path} resizes by PIL's filter {code}, which is not known here: set resample to 3"
            )
        if code != 3:
            found["resample"] = RESAMPLES[code]
        if not values.get("do_normalize", True):
            return found | {"mean": (0.0,) * 3, "std": (1.0,) * 3}
        looks = {"mean": values.get("image_mean"), "std": values.get("image_std")}
        return found | {name: tuple(value) for name, value in looks.items() if value is not None}
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(f"{path} can't be read ({error}): take another copy") from None


def _fit(values: Mapping[str, Any], path: Path, *, clip: bool) -> dict[str, Any]:
    """A size of one number is the shorter side's for CLIP's processor, both sides' for others."""
    if not values.get("do_center_crop", clip):
        return {"fit": "squash"}
    size, crop = values.get("size", 224), values.get("crop_size", 224)
    size = size if isinstance(size, dict) else {"shortest_edge" if clip else "height": size, "width": size}
    crop = crop if isinstance(crop, dict) else {"height": crop, "width": crop}
    shorter = size.get("shortest_edge")
    share, across = (crop[side] / (shorter or size[side]) for side in ("height", "width"))
    if share != across or not 0 < share <= 1:
        raise UserError(
            f"{path} crops another shape ({crop}) than it resizes to ({size}), which is not known here: make "
            "both of one shape, or remove the file"
        )
    return {"fit": "crop" if shorter else "squash"} | ({} if share == 1 else {"crop_share": share})


def values_of(model: System, processor: str) -> dict[str, Any]:
    """What transformers' processors do to pictures before such a model.

    Args:
        processor: the model's class of them; CLIP's where pictures are cropped, which not every one can.

    Raises:
        UserError: pictures are cropped, and not to squares: transformers has no place for that.
    """
    size = model.image_size
    height, width = (size, size) if isinstance(size, int) else size
    crop = {"height": height, "width": width}
    share = transform_of(model).crop_share
    whole = {side: round(pixels / share) for side, pixels in crop.items()}
    shape: dict[str, Any] = {"image_processor_type": processor, "size": whole, "do_center_crop": False}
    if model.image_fit == "crop":
        if height != width:
            raise UserError(
                f"transformers crops no pictures to {height} x {width}: set image.fit to squash, or keep "
                "this model as a folder (multiway.save)"
            )
        shape["size"] = {"shortest_edge": whole["height"]}
    if model.image_fit == "crop" or whole != crop:
        shape |= {"image_processor_type": "CLIPImageProcessor", "do_center_crop": True, "crop_size": crop}
    return {
        **shape,
        "resample": next(n for n, name in RESAMPLES.items() if name == transform_of(model).resample),
        "do_resize": True,
        "do_convert_rgb": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(model.image_mean),
        "image_std": list(model.image_std),
    }
