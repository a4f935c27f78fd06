"""Fine-tune, predict and evaluate: one file a task."""
