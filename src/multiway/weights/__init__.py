"""Model folders, published checkpoints, and the key maps between them and us."""

from multiway.weights.folder import load, save

__all__ = ["load", "save"]
