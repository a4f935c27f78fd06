"""The transformer core: it knows no system, no loss, no file."""
