"""Checks for what you bring yourself: :func:`check_loss` for a loss of your own."""

from ._check import check_loss as check_loss
