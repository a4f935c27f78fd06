"""Training: what a run is (`run`), its loop, optimizer, ranks, checkpoints and log."""
