"""A run on disk and on the terminal: checkpoints, scalars, progress, guards, signals."""
