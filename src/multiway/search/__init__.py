"""Find pictures by text or by picture: an index on disk, and two-stage queries over it."""
