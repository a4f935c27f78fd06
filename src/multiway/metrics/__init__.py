"""What the field measures, in numpy."""
