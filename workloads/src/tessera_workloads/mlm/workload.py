"""The masked language models as a workload: phases, loss, evaluation, and the gates that they must pass."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tessera_workloads.errors import InvalidRequest
from tessera_workloads.mlm import evaluation, filling, judgement, picture
from tessera_workloads.mlm.consistency import T5, Columns, scorer_of
from tessera_workloads.mlm.data import LONGEST_SPAN, Examination, Language, Texts, draw_spans
from tessera_workloads.mlm.model import MlmModel, init_parameter, mean_log_loss
from tessera_workloads.mlm.parameters import MlmParameters
from tessera_workloads.mlm.spans import Signs, hide, spell
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
    ParameterGroup,
    Phase,
    Shard,
    Split,
    Step,
    Update,
    Workload,
)
from tessera_workloads.schedules import cosine
from tessera_workloads.stepping import initialise

_WARM_UP_STEPS = 50
_EARLY = "-early"


class Mlm(Workload[MlmParameters]):
    """Masked language models measured against a known joint distribution (arXiv 2301.00068)."""

    name = "mlm"
    version = "1"
    Parameters = MlmParameters

    def make_data(
        self, p: MlmParameters, *, split: Split, seed: int, shard: Shard | None = None
    ) -> Texts | Examination:
        """Endless texts of the seed's language (of a client's dialect); other texts of it for the test."""
        language = Language.draw(p.words, p.sharpness, seed)
        if shard is not None:
            language = language.dialect(shard)
        if split == "train":
            return Texts(
                language=language,
                length=p.length,
                spans=p.spans,
                seed=seed,
                client=0 if shard is None else shard.index + 1,
            )
        return _examination(p, language, seed)

    def build_model(self, p: MlmParameters, artefacts: Mapping[str, Artefacts]) -> MlmModel:
        """The models of the run's forms."""
        return MlmModel(p)

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        """T5's initial values."""
        init_parameter(name, tensor, generator)

    def phases(self, p: MlmParameters) -> tuple[Phase, ...]:
        """One form after the other, each cut in two where it is measured while under-trained."""
        return tuple(
            phase
            for form in p.forms
            for phase in (
                _phase(p, form + _EARLY, begin=0, end=p.early_steps),
                _phase(p, form, begin=p.early_steps, end=p.steps),
            )
            if phase.steps
        )

    def compute_artefacts(
        self, p: MlmParameters, phase: Phase, model: nn.Module, data: Dataset, step: Step
    ) -> Artefacts:
        """After an early phase: what is measured of the under-trained model."""
        if not phase.name.endswith(_EARLY):
            return Artefacts()
        assert isinstance(model, MlmModel)
        assert isinstance(data, Texts)
        scorer = scorer_of(model, _form(phase.name), Signs(p.words))
        with torch.no_grad():
            columns = evaluation.examine(scorer, _examination(p, data.language, data.seed), step.device)
        return Artefacts(facts=evaluation.summarise(columns))

    def apply_artefacts(self, model: nn.Module, phase: str, artefacts: Artefacts) -> nn.Module:
        """The model keeps what was measured of it."""
        assert isinstance(model, MlmModel)
        if artefacts.facts:
            model.early[_form(phase)] = artefacts.facts
        return model

    def loss(self, p: MlmParameters, model: nn.Module, batch: Batch, step: Step) -> Loss:
        """Cross-entropy of the masked words (encoder), or of T5's targets with their sentinels."""
        words, masked, signs = batch["words"], batch["masked"], Signs(p.words)
        if _form(step.phase) == "encoder":
            total = mean_log_loss(model(hide(words, masked, signs)), words, masked)
        else:
            spelled = spell(words, masked, signs, width=_target_width(p))
            place = torch.arange(spelled.targets.shape[1], device=words.device)
            logits = model(spelled.inputs, spelled.targets)
            total = mean_log_loss(logits, spelled.targets, place <= spelled.ends[:, None])
        return Loss(total, {})

    def evaluate(self, p: MlmParameters, model: nn.Module, data: Dataset, device: torch.device) -> Metrics:
        """Every form untrained, under-trained and trained; the exact table; the ensemble of conditionals."""
        assert isinstance(model, MlmModel)
        assert isinstance(data, Examination)
        untrained = self.build_model(p, {})
        initialise(self, untrained, data.seed)
        untrained.to(device).eval()
        rows = []
        trained: dict[str, Columns] = {}
        for form in p.forms:
            trained[form], before = (
                evaluation.examine(scorer_of(one, form, Signs(p.words)), data, device)
                for one in (model, untrained)
            )
            stages = {
                "trained": evaluation.summarise(trained[form]),
                "early": model.early.get(form),
                "untrained": evaluation.summarise(before),
            }
            rows += [{"model": form, "stage": stage, **found} for stage, found in stages.items() if found]
        tables = {"consistency": rows}
        if "t5" in p.forms:
            tables["completion"] = evaluation.answer(T5(model.forms["t5"], Signs(p.words)), data, device)
        exact = evaluation.largest_exact_inconsistency(data)
        return Metrics(
            values=judgement.values(exact, tables),
            tables=tables,
            files={"contradictions.png": picture.draw_contradictions(trained)},
        )

    def checks(self, p: MlmParameters, metrics: Metrics) -> list[Check]:
        """Gates on the exact table, on the effect and on the average; what is less trained as controls."""
        return judgement.checks(metrics)

    def example_batch(self, p: MlmParameters, size: int, mode: Mode, step: Step) -> Batch:
        """Words and masks for training; a masked text, and a target for T5, to infer."""
        words = torch.randint(0, p.words, (size, p.length), generator=step.generator, device=step.device)
        masked = draw_spans(size, length=p.length, spans=p.spans, step=step)
        if mode == "train":
            return {"words": words, "masked": masked}
        signs = Signs(p.words)
        if "t5" not in p.forms:
            return {"tokens": hide(words, masked, signs)}
        spelled = spell(words, masked, signs, width=_target_width(p))
        return {"tokens": spelled.inputs, "targets": spelled.targets}

    def items(self, batch: Batch) -> int:
        """Words of the texts."""
        return next(iter(batch.values())).numel()

    def infer(self, p: MlmParameters, model: nn.Module, path: Path, device: torch.device) -> Metrics:
        """Fill the blanks (`_`) of a text in the language's words; the first form of the run answers."""
        assert isinstance(model, MlmModel)
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                f"{path} is no text in UTF-8: {error.reason} at byte {error.start}"
            ) from error
        scorer = scorer_of(model, p.forms[0], Signs(p.words))
        names = filling.names(p.words)
        written, rows = [], []
        for number, line in enumerate(filling.read_lines(text, words=p.words, spans=p.spans), start=1):
            words, filled = filling.fill(scorer, line, device)
            written.append(" ".join(names[word] for word in words))
            rows += [
                {
                    "line": number,
                    "place": one.place + 1,
                    "word": names[one.word],
                    "probability": one.probability,
                }
                for one in filled
            ]
        return Metrics(
            values={"lines": len(written), "blanks": len(rows)},
            tables={"blanks": rows},
            files={"filled.txt": ("\n".join(written) + "\n").encode()},
        )

    def federated(self, p: MlmParameters) -> FederatedView:
        """Clients train the last form together; the other one stays where it was trained."""
        *alone, together = p.forms
        return FederatedView(
            phase=together,
            shared=(f"forms.{together}.*",),
            personal=tuple(f"forms.{form}.*" for form in alone),
        )


def _form(phase: str) -> str:
    return phase.removesuffix(_EARLY)


def _phase(p: MlmParameters, name: str, *, begin: int, end: int) -> Phase:
    """Steps `begin` to `end` of a form's training: one schedule over all steps, but every phase warms up,
    because its optimiser starts anew.
    """
    falling = cosine(p.learning_rate, p.steps, floor=0.1)
    adamw = OptimizerSpec(
        kind="adamw",
        betas=(0.9, 0.98),
        weight_decay=0.01,
        # Words are told apart by their distance alone, which starts at zero: this must be learned first.
        groups=(ParameterGroup("*.distances", lr_scale=30.0, weight_decay=0.0),),
        clip_norm=1.0,
    )
    return Phase(
        name=name,
        steps=end - begin,
        batch=p.batch,
        updates=(Update(optimizer=adamw, trains=(f"forms.{_form(name)}.*",)),),
        lr_at=lambda step: falling(begin + step) * min(1.0, (step + 1) / _WARM_UP_STEPS),
        precision=p.precision,
    )


def _target_width(p: MlmParameters) -> int:
    """What the longest target needs: every masked word, a sentinel before each span, and one at the end."""
    return min(p.spans * LONGEST_SPAN, p.length) + p.spans + 1


def _examination(p: MlmParameters, language: Language, seed: int) -> Examination:
    return Examination(
        language=language,
        length=p.length,
        seed=seed,
        probe_count=p.probes,
        question_count=p.questions,
    )
