"""Files to batches: shards, annotations, decoding, augmentation, the loader, and the two samples that need no files."""
