"""The version, read by the build backend and by the run manifest."""

__version__ = "0.1.0"
