"""Batches: loaders, groups of micro-batches, positions in the data, token augmentation."""

from . import augmentation as augmentation
