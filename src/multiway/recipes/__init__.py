"""The recipes, by name: a value names a function that returns a `Run`, or a tuple of stages."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from difflib import get_close_matches

from multiway.errors import UserError
from multiway.train.run import Run

RECIPES: dict[str, str] = {
    name: f"multiway.recipes.{name.split('_')[0]}:{name}"
    for name in (
        "albef_base",
        "albef_emoji",
        "albef_emoji_full",
        "albef_emoji_scratch",
        "albef_photos",
        "beit_base",
        "beit3_base",
        "beit3_captioner",
        "beit3_emoji",
        "beit3_emoji_captioner",
        "beit3_emoji_retrieval",
        "beit3_giant",
        "beit3_retrieval",
        "blip_base",
        "blip_captioner",
        "blip_emoji",
        "blip_filter",
        "blip_photos",
        "clip_base",
        "clip_emoji",
        "clip_emoji_languages",
        "coca_base",
        "coca_emoji",
        "coca_experts",
        "flip_base",
        "flip_emoji",
        "flip_tuned",
        "generalist_base",
        "generalist_scenes",
        "mae_base",
        "mae_emoji",
        "simvlm_base",
        "simvlm_emoji",
        "simvlm_scenes",
        "vilt_base",
        "vilt_emoji",
        "vlmo_base",
        "vlmo_emoji",
        "vqkd_base",
        "vqkd_emoji",
        "vqvae_emoji",
        "vqvae_scenes",
    )
} | {name: f"multiway.recipes.beit:{name}" for name in ("beit2_base", "beit2_emoji")}
RECIPES |= {
    name: f"multiway.recipes.scenes:{name}"
    for name in (
        "albef_scenes",
        "assignment_scenes",
        "beit3_retrieval_scenes",
        "beit3_scenes",
        "vilt_scenes",
        "vlmo_scenes",
        "vqkd_scenes",
    )
}


def list_recipes() -> list[str]:
    """Names that `get` knows."""
    return list(RECIPES)


def stages(recipe: Run | tuple[Run, ...]) -> tuple[Run, ...]:
    """The runs of a recipe: one, or several in a row that each start from the model of the one before."""
    return recipe if isinstance(recipe, tuple) else (recipe,)


def get(name: str) -> Callable[[], Run | tuple[Run, ...]]:
    """The recipe function called `name`.

    Raises:
        UserError: there is no such recipe; the sentence names the nearest ones.
    """
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1, cutoff=0.4)
        advice = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(RECIPES)}"
        raise UserError(f"there is no recipe {name!r}: {advice}")
    module, function = RECIPES[name].split(":")
    return getattr(importlib.import_module(module), function)
