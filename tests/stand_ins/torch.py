"""PyTorch: tensors that leave the library by ``detach().cpu()``."""

import contextlib

import numpy as np


class Tensor:
    def __init__(self, values):
        self.values = np.asarray(values)
        self.shape = self.values.shape

    def detach(self):
        return self

    def cpu(self):
        return self

    def __array__(self, dtype=None, copy=None):
        return self.values


def from_numpy(values):
    return Tensor(values)


def no_grad():
    return contextlib.nullcontext()


class nn:
    def Linear(inputs, outputs):
        weight = np.random.default_rng(0).normal(size=(inputs, outputs)).astype("float32")
        return lambda tensor: Tensor(tensor.values @ weight)
