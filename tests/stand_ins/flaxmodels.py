"""flaxmodels: Linen modules over images, with batch statistics and a ``train`` flag."""

import flax.linen as nn


class ResNet18(nn.Module):
    output: str = "softmax"
    pretrained: str | None = "imagenet"
    num_classes: int = 1000
    normalize: bool = True

    @nn.compact
    def __call__(self, x, train=True):
        assert self.output == "logits"
        assert self.pretrained is None
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3), strides=4)(x))
        return nn.Dense(self.num_classes)(nn.relu(x).mean((1, 2)))
