"""bonsai: NNX modules whose dropout draws from the ``rngs`` of the call."""

import dataclasses

from flax import nnx


@dataclasses.dataclass
class ModelConfig:
    num_classes: int
    image_size: int


class ViTClassificationModel(nnx.Module):
    def __init__(self, config, *, rngs):
        self.patches = nnx.Conv(3, 8, (8, 8), strides=(8, 8), rngs=rngs)
        self.head = nnx.Linear(8, config.num_classes, rngs=rngs)
        self.drop = nnx.Dropout(0.1)

    def __call__(self, x, *, rngs):
        return self.head(self.drop(self.patches(x).mean((1, 2)), rngs=rngs))
