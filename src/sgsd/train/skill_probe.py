"""Before any training: rollouts of the current policy, scored under the bank's teachers and under the controls.

The rollouts are those that training would draw first. Nothing is trained and nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, count, islice
from typing import Any

import torch
from torch import Tensor

from sgsd.bank import Ledger
from sgsd.contexts import Graded
from sgsd.contexts.controls import CONTROLS, control, controlled_alone, has_controls, null_teacher
from sgsd.contexts.prompt_builders import TeacherPrompts
from sgsd.evaluation.probe import (
    RULE,
    SOURCES,
    STANCES,
    Findings,
    ProbedRollout,
    ProbeVerdict,
    Source,
    TeacherSupport,
    compute_findings,
    decide,
    teacher_observations,
)
from sgsd.methods import Method
from sgsd.methods import losses as L
from sgsd.methods.stances import MAX_RATIO_CLIP, StanceKind, VerifiedSupport
from sgsd.scorer import Role, Row, plan_microbatches
from sgsd.train.batch import grade
from sgsd.train.consistency import score_rows as score_microbatch
from sgsd.train.setup import Run
from sgsd.types import RolloutRequest, TeacherView, UserError


@dataclass(frozen=True)
class Probe:
    """A probe's figures, the ledger of the bank's items by the method's own stance, and all that decided them."""

    findings: Findings
    verdict: ProbeVerdict
    stance: StanceKind
    ledger: Ledger
    made_by: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {
            "verdict": asdict(self.verdict),
            "rule": RULE,
            "stance": self.stance,
            "findings": self.findings.to_dict(),
            "items": [asdict(row) for row in self.ledger.rows()],
            "ledger": self.ledger.to_json(),
            "made_by": self.made_by,
        }


def run_probe(run: Run, rollouts: int, on_progress: Callable[[int], None] = lambda done: None) -> Probe:
    """Sample, verify, score and judge. `on_progress` gets the number of rollouts done.

    Raises UserError: the method retrieves no pairs, or several processes were started.
    """
    check_method(run.method)
    if run.accelerator.num_processes > 1:
        raise UserError("a probe runs in one process; start it without a launcher")
    stance = stance_of(run.method)
    observations = observe(run, rollouts, on_progress)
    findings = compute_findings(observations, run.config.seed)
    ledger = Ledger().observe(teacher_observations(observations, "bank", stance.kind, stance.confidence))
    made_by = {"config": run.config.model_dump(mode="json"), "seed": run.config.seed, "rollouts": rollouts}
    return Probe(findings, decide(findings, stance.kind), stance.kind, ledger, made_by | run.provenance())


def check_method(method: Method) -> None:
    """Raises UserError for a method without skill pairs or a context of one's own."""
    if not has_controls(method.context):
        raise UserError(f"method.name: {method.name} retrieves no skill pairs, so there is no bank to probe; take sgsd")


def stance_of(method: Method) -> VerifiedSupport:
    """The method's own; of a method that has none, the published one."""
    return method.stance if isinstance(method.stance, VerifiedSupport) else VerifiedSupport()


def observe(run: Run, rollouts: int, on_progress: Callable[[int], None] = lambda done: None) -> list[ProbedRollout]:
    """Score the first rollouts that training would draw under all pools."""
    run.engine.sync()
    run.policy.scorer.eval()
    teachers, bank = run.contexts.teachers, controlled_alone(run.method.context)
    pools: dict[Source, TeacherPrompts] = {"bank": teachers.of(bank)}
    pools |= {name: teachers.of(control(bank, name)) for name in CONTROLS}
    readers = Readers(pools, teachers.of(null_teacher(bank)))
    asked = islice(chain.from_iterable(run.sampler.requests(step) for step in count(1)), rollouts)
    seen: list[ProbedRollout] = []
    while chunk := list(islice(asked, run.config.rollouts)):
        seen += readers.observe(run, chunk)
        on_progress(len(seen))
    return seen


@dataclass(frozen=True)
class Readers:
    """The pools of teachers that read every rollout, and the null teacher that a contrast compares them with."""

    pools: Mapping[Source, TeacherPrompts]
    null_teachers: TeacherPrompts

    def observe(self, run: Run, asked: Sequence[RolloutRequest]) -> list[ProbedRollout]:
        """Sample, grade and score as many rollouts as one step of training would draw."""
        rollouts = run.sampler.answer(asked)
        verdicts = grade(run.verifier, rollouts)
        plain = score_rows(run, [Row(r.prompt_ids, r.completion.token_ids) for r in rollouts], role="student")
        shown = self._shown([Graded(*pair) for pair in zip(rollouts, verdicts, strict=True)])
        rows = [Row(v.prompt_ids, r.completion.token_ids) for r, views in zip(rollouts, shown) for _, v in views]
        taught = iter(score_rows(run, rows, role="teacher"))
        found = []
        for rollout, verdict, student_T, views in zip(rollouts, verdicts, plain, shown):
            mask_T = run.learner.token_mask(rollout.completion)
            pools = read(stance_of(run.method), views, [next(taught) for _ in views], student_T, mask_T)
            found.append(ProbedRollout(rollout.completion.index, rollout.problem.id, verdict.outcome, pools))
        return found

    def _shown(self, rollouts: Sequence[Graded]) -> list[list[Shown]]:
        """Return each rollout's null teacher, then all teachers that fit; nothing where the null teacher does not."""
        pools = {source: prompts.views(rollouts) for source, prompts in self.pools.items()}
        nulls = [null for (null,) in self.null_teachers.views(rollouts)]
        return [
            [(None, null), *((s, view) for s in SOURCES for view in pools[s][b] if view.prompt_ids)]
            if null.prompt_ids
            else []
            for b, null in enumerate(nulls)
        ]


Shown = tuple[Source | None, TeacherView]  # of no source: the null teacher


def read(
    stance: VerifiedSupport, shown: Sequence[Shown], logps_KT: Sequence[Tensor], student_T: Tensor, mask_T: Tensor
) -> dict[Source, tuple[TeacherSupport, ...]]:
    """Compute every teacher's support of one rollout, by each stance; the first of them is the null teacher."""
    pools: dict[Source, list[TeacherSupport]] = {source: [] for source in SOURCES}
    if shown:
        mask_1T = mask_T[None]
        delta_1KT = L.token_gaps(student_T[None].cpu(), torch.stack(list(logps_KT))[None].cpu(), mask_1T)
        supports = {
            kind: replace(stance, kind=kind, clip=min(stance.clip, MAX_RATIO_CLIP) if kind == "ratio" else stance.clip)
            .support(delta_1KT, mask_1T, delta_1KT[:, 0])[0]
            .tolist()
            for kind in STANCES
        }
        for k, (source, view) in enumerate(shown):
            if source is not None:
                support = {kind: values[k] for kind, values in supports.items()}
                pools[source].append(TeacherSupport(view.item_ids, view.weight, support))
    return {source: tuple(readings) for source, readings in pools.items()}


def score_rows(run: Run, rows: Sequence[Row], role: Role) -> list[Tensor]:
    """Return the log-probs of every row's completion, each [T]."""
    found: dict[int, Tensor] = {}
    for indices in plan_microbatches([len(row) for row in rows], run.config.compute.teacher_tokens):
        logps_N = score_microbatch(run.policy, [rows[i] for i in indices], role)
        found.update(zip(indices, logps_N.split([len(rows[i].completion_ids) for i in indices])))
    return [found[i] for i in range(len(rows))]
