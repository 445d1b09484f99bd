"""NoiSER as a workload: one phase of self-regression on noise, then five photos, four controls and one known
failure.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tessera_workloads.noiser import evaluation, picture
from tessera_workloads.noiser.data import NIGHT_SKY, DarkPhotos, Noise
from tessera_workloads.noiser.evaluation import CONTROLS, Enhanced, Score
from tessera_workloads.noiser.model import NoiserNet, self_regression_loss
from tessera_workloads.noiser.parameters import NoiserParameters
from tessera_workloads.noiser.tiling import apply_tiled
from tessera_workloads.protocol import (
    Artefacts,
    Batch,
    Check,
    Dataset,
    FederatedView,
    Loss,
    Metrics,
    Mode,
    OptimizerSpec,
    Phase,
    Shard,
    Split,
    Step,
    Update,
    Workload,
)
from tessera_workloads.randomness import generator_at

SSIM_GAIN = 0.30
PSNR_GAIN_DB = 4.0
PHOTOS_TO_PASS = 4
REPAIRED_SSIM = 0.60
MOST_PARAMETERS = 2000
MOST_TILING_DIFFERENCE = 1e-5


class Noiser(Workload[NoiserParameters]):
    """Low-light enhancement learned from pure noise (arXiv 2211.04700)."""

    name = "noiser"
    version = "1"
    Parameters = NoiserParameters

    def make_data(
        self, p: NoiserParameters, *, split: Split, seed: int, shard: Shard | None = None
    ) -> Noise | DarkPhotos:
        """Noise for training (its samples come from the steps' generators), photos for the test."""
        return Noise(crop=p.crop, sigma=p.sigma) if split == "train" else DarkPhotos()

    def build_model(self, p: NoiserParameters, artefacts: Mapping[str, Artefacts]) -> NoiserNet:
        """The network of `model`."""
        return NoiserNet(p.hidden)

    def phases(self, p: NoiserParameters) -> tuple[Phase, ...]:
        """One phase: Adam with betas (0.5, 0.999) at a constant rate."""
        adam = OptimizerSpec(kind="adam", betas=(0.5, 0.999))
        return (
            Phase(
                name="train",
                steps=p.steps,
                batch=p.batch,
                updates=(Update(optimizer=adam),),
                lr_at=lambda step: p.learning_rate,
                precision=p.precision,
            ),
        )

    def loss(self, p: NoiserParameters, model: nn.Module, batch: Batch, step: Step) -> Loss:
        """L1 to the noise itself plus total variation."""
        total, parts = self_regression_loss(model(batch["noise"]), batch["noise"], p.tv_weight)
        return Loss(total, parts)

    def example_batch(self, p: NoiserParameters, size: int, mode: Mode, step: Step) -> Batch:
        """The training data is made from nothing, so it is its own example; a request has the same size."""
        return Noise(crop=p.crop, sigma=p.sigma).batch(size, step)

    def federated(self, p: NoiserParameters) -> FederatedView:
        """Everything is shared: no client's noise is special."""
        return FederatedView(phase="train", shared=("*",))

    def infer(self, p: NoiserParameters, model: nn.Module, path: Path, device: torch.device) -> Metrics:
        """Enhance a picture file of any size, and once more with a target mean that needs no truth."""
        assert isinstance(model, NoiserNet)
        dark = picture.read_picture(path)
        enhanced = evaluation.enhance(partial(apply_tiled, model), dark, device)
        shifted = evaluation.shift_mean(enhanced, evaluation.white_point_mean(dark))
        files = {"enhanced.png": enhanced, "enhanced_mean_shifted.png": shifted}
        return Metrics(
            values={
                "height": dark.shape[0],
                "width": dark.shape[1],
                "mean_before": float(dark.mean()),
                **{f"mean_of_{name.removesuffix('.png')}": float(one.mean()) for name, one in files.items()},
            },
            files={name: picture.encode_png(one) for name, one in files.items()},
        )

    def evaluate(self, p: NoiserParameters, model: nn.Module, data: Dataset, device: torch.device) -> Metrics:
        """PSNR and SSIM of NoiSER and of the controls on every photo; the night sky apart; pictures."""
        assert isinstance(data, DarkPhotos)
        assert isinstance(model, NoiserNet)
        photos = [evaluation.enhance_and_score(model, pair, device) for pair in data.photos]
        night = evaluation.enhance_and_score(model, data.night_sky, device)
        rows, sky = [_photo_row(photo) for photo in photos], evaluation.night_sky_scores(night)
        return Metrics(
            values=_values(model, rows, sky) | {"tiling_difference": _tiling_difference(model, device)},
            tables={"photos": rows, "night_sky": _sky_rows(sky)},
            files=_pictures([*photos, night]),
        )

    def checks(self, p: NoiserParameters, metrics: Metrics) -> list[Check]:
        """Gates on size, gains, mean SSIM and the repair; controls and the failure are shown beside them."""
        m = metrics.values
        checks = [
            Check.at_most("parameters", m["parameters"], MOST_PARAMETERS),
            Check.at_least("photos improved (of 5)", m["photos_improved"], PHOTOS_TO_PASS),
            Check.at_least("mean SSIM above the gain baseline", m["ssim_noiser"] - m["ssim_gain"], 0.0),
            Check.at_least(
                "night sky repaired by its true mean: SSIM",
                m["night_sky_ssim_shifted_true_mean"],
                REPAIRED_SSIM,
            ),
            Check.at_most(
                "tiled and whole picture: largest difference", m["tiling_difference"], MOST_TILING_DIFFERENCE
            ),
        ]
        for method in ("dark", *CONTROLS):
            checks.append(Check.note(f"{method}: mean SSIM", m[f"ssim_{method}"], kind="control"))
            checks.append(Check.note(f"{method}: mean PSNR, dB", m[f"psnr_{method}"], kind="control"))
        checks += [
            Check.note("NoiSER: mean SSIM", m["ssim_noiser"]),
            Check.note("NoiSER: mean PSNR, dB", m["psnr_noiser"]),
        ]
        for row in metrics.tables["night_sky"]:
            checks.append(Check.note(f"night sky, {row['picture']}: PSNR, dB", row["psnr"]))
            checks.append(Check.note(f"night sky, {row['picture']}: SSIM", row["ssim"]))
        return checks


def _tiling_difference(model: NoiserNet, device: torch.device) -> float:
    """Largest difference on [-1, 1] between a picture in tiles, some cut by its edge, and in one piece."""
    noise = torch.randn((1, 3, 150, 210), generator=generator_at(device, 0, "tiling"), device=device)
    noise.clamp_(-1, 1)
    return float((apply_tiled(model, noise, side=64) - model(noise)).abs().max())


def _photo_row(photo: Enhanced) -> dict[str, Any]:
    """Every method's scores on one photo, and whether NoiSER improved it enough."""
    pair = photo.pair
    scores = {"dark": photo.before, "noiser": photo.after}
    scores |= {name: evaluation.score(method(pair.dark), pair.truth) for name, method in CONTROLS.items()}
    row: dict[str, Any] = {"photo": pair.name}
    for method, one in scores.items():
        row[f"psnr_{method}"], row[f"ssim_{method}"] = one.psnr, one.ssim
    row["psnr_improvement"] = scores["noiser"].psnr - scores["dark"].psnr
    row["ssim_improvement"] = scores["noiser"].ssim - scores["dark"].ssim
    row["improved"] = row["psnr_improvement"] >= PSNR_GAIN_DB and row["ssim_improvement"] >= SSIM_GAIN
    return row


def _values(model: nn.Module, rows: list[dict[str, Any]], sky: Mapping[str, Score]) -> dict[str, float]:
    values: dict[str, float] = {
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
        "photos_improved": sum(row["improved"] for row in rows),
    }
    for key in [key for key in rows[0] if key.startswith(("psnr_", "ssim_"))]:
        values[key] = sum(row[key] for row in rows) / len(rows)
    for name, one in sky.items():
        values[f"night_sky_psnr_{name}"], values[f"night_sky_ssim_{name}"] = one.psnr, one.ssim
    return values


def _sky_rows(sky: Mapping[str, Score]) -> list[dict[str, Any]]:
    return [
        {"picture": name.replace("_", " "), "psnr": one.psnr, "ssim": one.ssim, "mean": one.mean}
        for name, one in sky.items()
    ]


def _pictures(photos: list[Enhanced]) -> dict[str, bytes]:
    """The before/after sheet, and every picture of it as a file of its own."""
    sheet, singles = [], {}
    for photo in photos:
        pair, enhanced, before, after = photo.pair, photo.picture, photo.before, photo.after
        notes = [
            f"PSNR  {before.psnr:.1f} to {after.psnr:.1f} dB",
            f"SSIM  {before.ssim:.2f} to {after.ssim:.2f}",
            f"mean  {before.mean:.2f} to {after.mean:.2f}",
        ]
        if pair.name == NIGHT_SKY:
            notes += ["", "known failure: it lifts", "what should stay dark;", "not part of the score"]
        sheet.append(picture.Row(pair.name, notes, (pair.dark, enhanced, pair.truth)))
        for kind, content in (("dark", pair.dark), ("noiser", enhanced), ("truth", pair.truth)):
            singles[f"images/{pair.name}_{kind}.png"] = picture.encode_png(content)
    caption = "Trained on pure noise only; a mean brightness of one half is built in. Photos: scikit-image."
    return {"before_after.png": picture.draw_grid(sheet, caption=caption), **singles}
