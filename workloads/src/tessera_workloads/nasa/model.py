"""The networks: a supernet that holds every candidate of every cell, and the plain networks found in it.

A cell adds to its input what its candidate computes: y = x + f(x), with f = 0 for skip. Where the shape
changes, x is average-pooled and gets zero channels, so that a skipped cell costs nothing anywhere. In a
supernet f is the sum of all candidates under gates that add up to one (Gumbel-softmax, drawn for each
picture).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tessera_workloads.digits import CLASSES
from tessera_workloads.nasa.operators import make_layer
from tessera_workloads.nasa.phases import SERVED
from tessera_workloads.nasa.space import Architecture, Candidate, CellShape, EnergyTable, Space

CHANNELS_PER_GROUP = 4
"""Of every GroupNorm: unlike batch statistics it behaves the same in training and evaluation."""


class Block(nn.Module):
    """1x1, depthwise k x k, 1x1, each normalised, the first two rectified."""

    def __init__(self, shape: CellShape, candidate: Candidate) -> None:
        super().__init__()
        kind, middle = candidate.operation, candidate.expansion * shape.inputs
        self.widen = make_layer(kind, shape.inputs, middle)
        self.widen_norm = _norm(middle)
        self.depthwise = make_layer(
            kind, middle, middle, kernel=candidate.kernel, stride=shape.stride, groups=middle
        )
        self.depthwise_norm = _norm(middle)
        self.narrow = make_layer(kind, middle, shape.outputs)
        self.narrow_norm = _norm(shape.outputs)

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, S, S) to (B, outputs, S / stride, S / stride)."""
        features = self.widen_norm(self.widen(features)).relu()
        features = self.depthwise_norm(self.depthwise(features)).relu()
        result: Tensor = self.narrow_norm(self.narrow(features))
        return result


class Cell(nn.Module):
    """A shortcut plus the candidates that are there; `skip` is the absence of a block."""

    def __init__(self, shape: CellShape, candidates: Sequence[Candidate]) -> None:
        super().__init__()
        self.shape = shape
        self.blocks = nn.ModuleDict(
            {one.name: Block(shape, one) for one in candidates if one.operation != "skip"}
        )

    def forward(self, features: Tensor, gates: Mapping[str, Tensor] | None = None) -> Tensor:
        """With gates (B,) by candidate only those candidates run; without, every one, whole."""
        result = self._shortcut(features)
        for name, block in self.blocks.items():
            if gates is None:
                result = result + block(features)
            elif name in gates:
                result = result + gates[name][:, None, None, None] * block(features)
        return result

    def _shortcut(self, features: Tensor) -> Tensor:
        if self.shape.stride > 1:
            features = functional.avg_pool2d(features, self.shape.stride)
        missing = self.shape.outputs - self.shape.inputs
        return functional.pad(features, (0, 0, 0, 0, 0, missing)) if missing else features


class Network(nn.Module):
    """Stem, cells, means over squares of the picture, head: (B, 1, S, S) to (B, classes)."""

    def __init__(self, space: Space, candidates: Sequence[Sequence[Candidate]]) -> None:
        super().__init__()
        first, last = space.cells[0], space.cells[-1]
        self.stem = nn.Conv2d(1, first.inputs, 3, padding=1, bias=False)
        self.stem_norm = _norm(first.inputs)
        self.cells = nn.ModuleList(
            Cell(shape, held) for shape, held in zip(space.cells, candidates, strict=True)
        )
        features = space.header or last.outputs
        self.header = nn.Conv2d(last.outputs, features, 1) if space.header else nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(space.head_side)
        self.head = nn.Linear(features * space.head_side**2, CLASSES)

    def forward(self, images: Tensor, gates: Sequence[Mapping[str, Tensor]] | None = None) -> Tensor:
        """Logits; `gates` has one mapping per cell."""
        features = self.stem_norm(self.stem(images)).relu()
        for index, cell in enumerate(self.cells):
            features = cell(features, gates[index] if gates else None)
        logits: Tensor = self.head(self.pool(self.header(features).relu()).flatten(1))
        return logits


class Supernet(Network):
    """All candidates in every cell, and a parameter `gates` (cells, candidates) that learns which to keep."""

    def __init__(self, space: Space, table: EnergyTable) -> None:
        super().__init__(space, [space.candidates] * len(space.cells))
        self.space = space
        self.gates = nn.Parameter(torch.empty(len(space.cells), len(space.candidates)))
        self.costs: Tensor
        self.register_buffer("costs", torch.tensor(table.shares(space)), persistent=False)

    def choose(self, images: Tensor, noise: Tensor, *, allowed: Sequence[int], temperature: float) -> Tensor:
        """Logits with the allowed candidates under gates softmax((gate + Gumbel noise) / temperature)."""
        names = [self.space.candidates[index].name for index in allowed]
        drawn = ((self.gates + noise)[:, :, allowed] / temperature).softmax(-1)
        gates = [dict(zip(names, cell.unbind(-1), strict=True)) for cell in drawn.unbind(1)]
        return self.forward(images, gates)

    def expected_cost(self) -> Tensor:
        """Cost relative to all-convolution, when every cell draws its candidate from softmax(gate)."""
        return (self.gates.softmax(-1) * self.costs).sum()

    def derive(self) -> Architecture:
        """The candidate with the largest gate of every cell."""
        return tuple(self.space.candidates[index] for index in self.gates.argmax(-1).tolist())


class Search(nn.Module):
    """All networks of a run: first the supernets by name, after the search the found networks by name.

    A found network may be there several times, each with its own initial weights.
    """

    def __init__(self, space: Space, table: EnergyTable, supernets: Sequence[str]) -> None:
        super().__init__()
        self.space, self.table = space, table
        self.supernets = nn.ModuleDict({name: Supernet(space, table) for name in supernets})
        self.networks = nn.ModuleDict()
        self.architectures: dict[str, Architecture] = {}

    def forward(self, images: Tensor) -> Tensor:
        """The logits of the first training of the network that the search is for."""
        logits: Tensor = self.trained(SERVED)[0](images)
        return logits

    def supernet(self, name: str) -> Supernet:
        """A supernet by its name."""
        found = self.supernets[name]
        assert isinstance(found, Supernet)
        return found

    def trained(self, name: str) -> nn.ModuleList:
        """The trainings of a named network; names with one architecture share them."""
        found = self.networks[network_key(self.architectures[name])]
        assert isinstance(found, nn.ModuleList)
        return found

    def branch(self, origins: Mapping[str, str]) -> None:
        """Replace the supernets by copies of themselves: new name to the name of what it starts from."""
        branched = nn.ModuleDict()
        for name, origin in origins.items():
            found = self.supernet(origin)
            branched[name] = Supernet(self.space, self.table).to(found.gates.device)
            branched[name].load_state_dict(found.state_dict())
        self.supernets = branched

    def hold(self, architectures: Mapping[str, Architecture], *, trainings: Mapping[str, int]) -> None:
        """Replace the supernets by untrained networks of these architectures, each as often as it is said."""
        self.supernets = nn.ModuleDict()
        self.architectures = dict(architectures)
        times: dict[Architecture, int] = {}
        for name, architecture in self.architectures.items():
            times[architecture] = max(times.get(architecture, 0), trainings[name])
        for architecture, count in times.items():
            self.networks[network_key(architecture)] = nn.ModuleList(
                Network(self.space, [[candidate] for candidate in architecture]) for _ in range(count)
            )


def network_key(architecture: Architecture) -> str:
    """The architecture as a name of a module."""
    return "-".join(candidate.name for candidate in architecture)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // CHANNELS_PER_GROUP, channels)
