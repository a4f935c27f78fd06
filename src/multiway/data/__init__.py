"""Files to batches: shards, annotations, decoding, augmentation, loader; two samples that need no files."""
