"""Trainers of one or a few steps on the lab's policy, and the gradient of each way to the same update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from runs import SMALL, small_config
from sgsd.bank import Ledger, TeacherObservation
from sgsd.lab.demo_bank import demo_bank
from sgsd.methods import Method
from sgsd.methods.registry import grpo, sgsd
from sgsd.records.metrics import StepMetrics
from sgsd.train.batch import build_batch
from sgsd.train.setup import build_run
from sgsd.train.step import score_teachers, update
from sgsd.types import Rollout, Verdict

Gradients = dict[str, Tensor]
SETTINGS = {key: SMALL[key] for key in ("bank", "prompts", "data", "compute")}
ROLLOUTS, GROUP, MAX_TOKENS = 8, 2, 96


def sgsd_token() -> Method:
    return replace(sgsd(k=2, confidence=0.01), reduce="token")


def sgsd_fixed() -> Method:
    return replace(sgsd(k=2, confidence=0.01), reduce="fixed")


def untaught() -> Method:
    """The outcome alone on the tokens that teach: what is left of a method whose teachers are all missing."""
    return replace(grpo(iterations=1, reduce="token"), tokens="teaching")


def arguments(folder: Path, **changes: Any) -> Any:
    from trl import GRPOConfig

    plain = {
        "output_dir": str(folder),
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": ROLLOUTS // 4,
        "num_generations": GROUP,
        "max_completion_length": MAX_TOKENS,
        "learning_rate": 1e-4,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }
    return GRPOConfig(**{**plain, **changes})


def trainer_of(folder: Path, method: Mapping[str, Any], model: Any, tokenizer: Any, **changes: Any) -> Any:
    from sgsd.integrations.trl import SgsdGRPOTrainer

    settings = {**SETTINGS, "method": dict(method)}
    return SgsdGRPOTrainer(model, settings, args=arguments(folder, **changes), processing_class=tokenizer)


def lived_ledger() -> Ledger:
    """A ledger that trusts half of the demo's items and distrusts the others."""
    bank = demo_bank()
    pairs = [(s.id, m.id) for s, m in zip(bank.skills, bank.mistakes)]
    seen = [
        TeacherObservation(ids, outcome, outcome * (0.2 if i % 2 else -0.2), 1 if i % 2 else -1)
        for i, ids in enumerate(pairs)
        for outcome in (1, -1) * 4
    ]
    return Ledger().observe(seen)


def trl_gradient(trainer: Any) -> tuple[Gradients, list[Rollout], list[Verdict]]:
    """What TRL's own loop hands to its optimizer in one step, and the rollouts it is of."""
    from transformers import TrainerCallback

    seen: list[Any] = []
    compute, gradients = trainer.adapter.advantages, Gradients()

    def listening(rollouts: list[Rollout], verdicts: list[Verdict], *rest: Any, **named: Any) -> Any:
        seen.append((rollouts, verdicts))
        return compute(rollouts, verdicts, *rest, **named)

    class Taking(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            trainer.adapter.learner.evidence_log.ledger = lived_ledger()

        def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
            gradients.update((name, p.grad.clone()) for name, p in model.named_parameters() if p.grad is not None)

    object.__setattr__(trainer.adapter, "advantages", listening)
    trainer.add_callback(Taking())
    trainer.train()
    ((rollouts, verdicts),) = seen
    return gradients, rollouts, verdicts


def our_gradient(
    folder: Path,
    method: Mapping[str, Any],
    rollouts: Sequence[Rollout],
    verdicts: Sequence[Verdict],
    group: int = GROUP,
) -> Gradients:
    """The gradient of `sgsd train` for these rollouts: its parts, its contexts, its update."""
    config = small_config(
        folder,
        method=dict(method),
        rollouts=len(rollouts),
        group=group,
        sampling={"max_tokens": MAX_TOKENS},
        optimizer={"max_grad_norm": 1e9},
    )
    parts = build_run(config, Accelerator(cpu=True))
    parts.evidence_log.ledger = lived_ledger()
    taking = TakingOptimizer(parts.policy.model)
    parts.policy.strategy.optimizer = taking
    batch = build_batch(parts.contexts, list(rollouts), list(verdicts))
    update(parts.learner, batch, score_teachers(parts.learner, batch), StepMetrics(), lr=0.0)
    return taking.gradients


class TakingOptimizer:
    """Takes down the gradient and steps nowhere."""

    def __init__(self, model: Any) -> None:
        self.model, self.gradients, self.param_groups = model, Gradients(), list[dict[str, Any]]()

    def step(self) -> None:
        self.gradients.update((n, p.grad.clone()) for n, p in self.model.named_parameters() if p.grad is not None)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.model.zero_grad(set_to_none)


def distance(these: Gradients, those: Gradients) -> float:
    """The largest difference of two gradients, over the largest entry."""
    assert these.keys() == those.keys()
    largest = max(float(g.abs().max()) for g in those.values())
    assert largest > 0, "no gradient, so nothing is shown"
    return max(float((these[name] - those[name]).abs().max()) for name in those) / largest
