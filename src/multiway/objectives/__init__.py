"""Losses as pure functions of tensors, named for the question that they ask; none knows a model."""
