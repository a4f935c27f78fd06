"""Pictures as a user has them, and as a system wants them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from multiway.data.augment import EvalTransform, Resample, eval_transform
from multiway.data.collate import stacked
from multiway.errors import UserError

#: A picture as a user has it: a path, a PIL image, or a normalised `[3, H, W]` tensor.
Picture = str | Path | Image.Image | Tensor


def transform_of(model: Any) -> EvalTransform:
    """What evaluation and inference do to a picture for a system."""
    size = model.kept_shape or model.image_size
    image = getattr(model.config, "image", None)  # a ViT's alone says more than the fit
    share: float = getattr(image, "crop_share", 1.0)
    resample: Resample = getattr(image, "resample", "bicubic")
    return eval_transform(size, model.image_mean, model.image_std, model.image_fit, share, resample)


def prepared(images: Picture | Sequence[Picture], transform: EvalTransform) -> Float[Tensor, "B 3 H W"]:
    """Pictures resized and normalised; tensors are taken as they are.

    Raises:
        UserError: a path does not exist or is not a picture.
    """
    if isinstance(images, Tensor) and images.ndim == 4:
        return images
    rows = []
    for image in [images] if isinstance(images, str | Path | Image.Image | Tensor) else images:
        if isinstance(image, Tensor):
            rows.append(image)
        else:
            rows.append(transform(image.convert("RGB") if isinstance(image, Image.Image) else opened(image)))
    return stacked([row.cpu() for row in rows])


def pair_count(pictures: int, texts: int) -> int:
    """How many pairs they make: as many of both, or one of either for all of the other.

    Raises:
        UserError: they make none.
    """
    pairs = max(pictures, texts)
    if not pairs or not {pictures, texts} <= {1, pairs}:
        raise UserError(f"match got {pictures} pictures and {texts} texts: give as many, or one of either")
    return pairs


def opened(path: str | Path) -> Image.Image:
    """The picture of a file.

    Raises:
        UserError: there is none, or it is not a picture.
    """
    from multiway.data.images import decode
    from multiway.data.sample import BadSample

    path = Path(path)
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}): give the path of a picture") from None
    except BadSample as error:
        raise UserError(
            f"{path} is no picture that can be read ({error}): give a JPEG, PNG, WebP or the like"
        ) from None
