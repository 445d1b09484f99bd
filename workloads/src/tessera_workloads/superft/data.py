"""The digits, poisoned for whoever is attacked and clean for whoever cures.

What a phase learns from follows from its name (`phases`): the poisoned network sees the training pictures of
which a tenth are marked and labelled with the target; a cure sees the same pictures clean, all of them or a
fifth; a probe of the search the same without the part that judges it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from tessera_workloads.digits import Digits, load_digits_split
from tessera_workloads.protocol import Batch, Shard, Step
from tessera_workloads.superft.phases import FEW, POISONED, Place
from tessera_workloads.superft.triggers import TARGET, TRIGGERS

FEW_SHARE = 0.2


@dataclass(frozen=True)
class TrainingDigits:
    """The clean training pictures, and for each attack the poisoned ones: the same, but for the first
    `marked_count`.
    """

    clean: Digits
    poisoned: Mapping[str, Digits]
    marked_count: int
    held_out_share: float

    def clean_for(self, role: str) -> Digits:
        """The clean pictures that a role may use: all, or the last fifth."""
        start = len(self.clean) - round(FEW_SHARE * len(self.clean)) if role == FEW else 0
        return self.clean.part(slice(start, None))

    def probed(self, role: str) -> tuple[Digits, Digits]:
        """Those pictures in two parts: what a probe learns from, and what judges it."""
        clean = self.clean_for(role)
        cut = len(clean) - max(1, round(self.held_out_share * len(clean)))
        return clean.part(slice(cut)), clean.part(slice(cut, None))

    def learned_in(self, phase: str) -> Digits:
        """What a phase learns from."""
        place = Place.of(phase)
        if place.role == POISONED:
            return self.poisoned[place.attack]
        return self.probed(place.role)[0] if place.is_probe else self.clean_for(place.role)

    def shard(self, shard: Shard) -> "TrainingDigits":
        """One client's share. The marked pictures come first, so the first client has them, or the first few.

        Raises as `Digits.stretch` does.
        """
        stretch = self.clean.stretch(shard)
        return replace(
            self,
            clean=self.clean.part(stretch),
            poisoned={attack: digits.part(stretch) for attack, digits in self.poisoned.items()},
            marked_count=len(range(self.marked_count)[stretch]),
        )

    def batch(self, size: int, step: Step) -> Batch:
        """Pictures (size, 1, S, S) and labels (size,) of the phase's part, drawn with replacement."""
        part = self.learned_in(step.phase)
        chosen = torch.randint(len(part), (size,), generator=step.generator, device=step.device)
        drawn = part.part(chosen.cpu())
        return {"images": drawn.images.to(step.device), "labels": drawn.labels.to(step.device)}

    def content_hash(self) -> str:
        """Hash over the clean pictures and every poisoned form."""
        parts = [self.clean, *(self.poisoned[attack] for attack in sorted(self.poisoned))]
        return hashlib.sha256("".join(part.content_hash() for part in parts).encode()).hexdigest()


@dataclass(frozen=True)
class JudgedDigits:
    """The test pictures, and the training pictures for what only they can tell (who was a member)."""

    test: Digits
    training: TrainingDigits

    def marked(self, attack: str) -> Tensor:
        """The test pictures of other digits than the target, with the trigger."""
        return TRIGGERS[attack](self.test.images[self.test.labels != TARGET])

    def content_hash(self) -> str:
        """Hash over the test pictures."""
        return self.test.content_hash()


def make_digits(*, seed: int, side: int, poisoned_share: float, held_out_share: float) -> JudgedDigits:
    """Cut the digits by the seed, scale them to `side` pixels, poison the training part for each attack."""
    training, test = (Digits(_scale(part.images, side), part.labels) for part in load_digits_split(seed))
    marked_count = max(1, round(poisoned_share * len(training)))
    return JudgedDigits(
        test=test,
        training=TrainingDigits(
            clean=training,
            poisoned={attack: poison(training, attack, marked_count) for attack in TRIGGERS},
            marked_count=marked_count,
            held_out_share=held_out_share,
        ),
    )


def poison(clean: Digits, attack: str, marked_count: int) -> Digits:
    """Give the first `marked_count` pictures the trigger and the target's label."""
    images, labels = clean.images.clone(), clean.labels.clone()
    images[:marked_count] = TRIGGERS[attack](images[:marked_count])
    labels[:marked_count] = TARGET
    return Digits(images, labels)


def _scale(images: Tensor, side: int) -> Tensor:
    return functional.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
