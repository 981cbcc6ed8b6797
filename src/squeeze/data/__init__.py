"""Data sets: where they are, their columns, and the loader all of them go through."""
