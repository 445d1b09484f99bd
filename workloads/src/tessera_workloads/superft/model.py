"""The classifier, and the set of equal classifiers of one run: the poisoned one, its cures and the controls.

They live in one model, so that a checkpoint holds all of them. A cure begins as a copy of the poisoned
network, and a probe of the search is undone by copying it once more.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tessera_workloads.digits import CLASSES

_GROUPS = 8
_MAP_SIDE = 2


class DigitNet(nn.Module):
    """Three 3x3 convolutions, each with GroupNorm and SiLU, average pooling between them, one linear layer.

    (B, 1, S, S) in [0, 1] to (B, 10) logits. `found_rate` is the highest learning rate of its cure, as the
    search found it (0: none).
    """

    found_rate: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(1, width),
            nn.AvgPool2d(2),
            *_convolution(width, 2 * width),
            nn.AvgPool2d(2),
            *_convolution(2 * width, 2 * width),
            nn.AdaptiveAvgPool2d(_MAP_SIDE),
        )
        self.classifier = nn.Linear(2 * width * _MAP_SIDE**2, CLASSES)
        self.register_buffer("found_rate", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the ten digits."""
        result: Tensor = self.classifier(self.features(images).flatten(1))
        return result


class Networks(nn.ModuleDict):
    """Classifiers of one shape by name; which one computes is said with every call."""

    def __init__(self, names: Sequence[str], *, width: int) -> None:
        super().__init__({name: DigitNet(width) for name in names})

    def forward(self, images: Tensor, name: str) -> Tensor:
        """Logits of one of the classifiers."""
        result: Tensor = self[name](images)
        return result

    def copy(self, source: str, target: str) -> None:
        """Give one classifier the values of another one."""
        self[target].load_state_dict(self[source].state_dict())


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    # Without a bias, which the normalisation has.
    return [
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, outputs),
        nn.SiLU(),
    ]
