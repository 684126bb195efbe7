"""One step of training, in the order it happens: collect, score the teachers, update."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sgsd.method.spec import Evidence, Judgement, token_weights
from sgsd.scorer import Pack, Row, Scores, collate, plan_passes
from sgsd.train.data import problem_at
from sgsd.train.metrics import StepMetrics
from sgsd.train.setup import Parts
from sgsd.types import Rollout, TeacherView, Verdict


class NonFiniteError(RuntimeError):
    """A loss or a gradient stopped being a number; no weight has been touched by it."""


@dataclass(frozen=True)
class Batch:
    """This process's share of a step's rollouts. B rollouts, K teachers."""

    rollouts: list[Rollout]
    verdicts: list[Verdict]
    views: list[tuple[TeacherView, ...]]

    def student_rows(self) -> list[Row]:
        return [Row(r.prompt_ids, r.completion.token_ids) for r in self.rollouts]

    def teacher_rows(self) -> list[Row]:
        return [Row(v.prompt_ids, r.completion.token_ids) for r, pool in zip(self.rollouts, self.views) for v in pool]

    @property
    def teachers(self) -> int:
        return len(self.views[0])


@dataclass(frozen=True)
class TeacherScores:
    """What the teachers say of every rollout; rows run over rollouts, then teachers."""

    logps: list[Tensor] = field(default_factory=list)  # each [T of that rollout]
    hidden: list[Tensor] = field(default_factory=list)  # each [T, D]


@dataclass
class Detail:
    """The judged tokens of one rollout, for the log."""

    position: int  # in the batch
    judgement: Judgement
    row: int  # in the judgement
    mask_T: Tensor


def step_positions(parts: Parts, step: int) -> list[tuple[int, int]]:
    """(group, global index) of this process's rollouts; whole groups stay together."""
    size = parts.config.group_size
    groups = parts.config.rollouts // size
    mine = range(parts.accelerator.process_index, groups, parts.accelerator.num_processes)
    first = (step - 1) * groups
    return [(first + j, (first + j) * size + i) for j in mine for i in range(size)]


def sample(parts: Parts, step: int) -> list[Rollout]:
    positions = step_positions(parts, step)
    problems = [problem_at(parts.problems, group, parts.config.seed) for group, _ in positions]
    thinking = parts.config.prompts.student_thinking
    prompts = [parts.maker.student(problem, thinking=thinking) for problem in problems]
    sampling = parts.config.sampling.to_sampling()
    done = parts.engine.sample(prompts, [index for _, index in positions], sampling, seed=parts.config.seed)
    return [Rollout(p, ids, c, group) for p, ids, c, (group, _) in zip(problems, prompts, done, positions)]


def verify(parts: Parts, rollouts: Sequence[Rollout]) -> list[Verdict]:
    return parts.verifier.grade([r.completion.text for r in rollouts], [r.problem.gold for r in rollouts])


def score_teachers(parts: Parts, batch: Batch) -> TeacherScores:
    """All teachers of all rollouts, in passes of a token budget; no gradient."""
    rows, whole = batch.teacher_rows(), parts.method.matches_distribution
    found: dict[int, Tensor] = {}
    for indices, pack in passes(parts, rows, parts.config.compute.teacher_tokens):
        scores: Scores = parts.scorer(pack, role="teacher", hidden_only=whole)
        values = scores.hidden_ND if whole else scores.logps_N
        assert values is not None
        if indices:  # an idle pass has been made for the others' sake
            found.update(zip(indices, values.split([len(rows[i].completion_ids) for i in indices])))
    in_order = [found[i] for i in range(len(rows))]
    return TeacherScores(hidden=in_order) if whole else TeacherScores(logps=in_order)


def passes(parts: Parts, rows: Sequence[Row], token_budget: int) -> Iterator[tuple[list[int], Pack]]:
    """Rows in passes; every process makes the same number, since FSDP's collectives would wait for ever otherwise."""
    plan = plan_passes([len(row) for row in rows], token_budget)
    most = int(parts.all_max(len(plan)))
    for indices in [*plan, *[[] for _ in range(most - len(plan))]]:
        pack = collate([rows[i] for i in indices or [0]], pad_id=parts.pad_id, device=parts.accelerator.device)
        yield indices, pack


def update(parts: Parts, batch: Batch, taught: TeacherScores, metrics: StepMetrics, lr: float) -> list[Detail]:
    """One student pass a rollout and iteration, whatever the number of teachers; then the optimizer."""
    outcome_B = torch.tensor([float(v.outcome) for v in batch.verdicts])
    groups_B = torch.tensor([r.group for r in batch.rollouts])
    advantages_B = parts.method.outcome_advantages(outcome_B, groups_B)
    masks = [parts.token_mask(r.completion.token_ids) for r in batch.rollouts]
    tokens = int(parts.all_sum(sum(int(mask.sum()) for mask in masks)))
    old_logps: dict[int, Tensor] = {}
    details: list[Detail] = []
    for iteration in range(parts.method.iterations):
        losses: list[tuple[list[int], Tensor]] = []
        for indices, pack in passes(parts, batch.student_rows(), parts.config.compute.student_tokens):
            used = indices or [0]
            mask_BT = pad_rows([masks[i] for i in used]).to(pack.targets_N.device)
            evidence = gather_evidence(parts, batch, taught, pack, used, mask_BT, outcome_B, advantages_B, old_logps)
            judgement = parts.method.judge(evidence)
            shares_BT = token_weights(
                mask_BT,
                parts.method.reduce,
                rollouts=parts.config.rollouts,
                tokens=tokens,
                max_tokens=parts.config.sampling.max_tokens,
            )
            # An idle process goes through the motions with weight 0; DDP and FSDP average over processes.
            loss = (shares_BT * judgement.losses_BT).sum() * bool(indices)
            parts.accelerator.backward(loss * parts.accelerator.num_processes)
            losses.append((indices, loss.detach()))
            if indices and iteration == 0:
                metrics.add(judgement, evidence, loss.detach())
                wanted = [i for i in indices if i < parts.config.logged_rollouts]
                details += [Detail(i, judgement, indices.index(i), masks[i]) for i in wanted]
        metrics.grad_norm = apply_gradient(parts, lr, batch, losses)
    return sorted(details, key=lambda detail: detail.position)


def gather_evidence(
    parts: Parts,
    batch: Batch,
    taught: TeacherScores,
    pack: Pack,
    used: Sequence[int],
    mask_BT: Tensor,
    outcome_B: Tensor,
    advantages_B: Tensor,
    old_logps: dict[int, Tensor],
) -> Evidence:
    """Score one student pass and lay the teachers beside it."""
    device, K = pack.targets_N.device, batch.teachers
    of_teacher = [[i * K + k for i in used] for k in range(K)]  # rows of the teachers' scores, teacher by teacher
    teacher_logps_BKT = divergence_BKT = None
    if parts.method.matches_distribution:
        states_KND = [torch.cat([taught.hidden[row] for row in rows]) for rows in of_teacher]
        divergence = parts.method.direction
        scores: Scores = parts.scorer(pack, entropy=True, teacher_hidden_KND=states_KND, divergence=divergence)
        assert scores.divergence_KN is not None
        divergence_BKT = torch.stack([pack.to_rows(values_N) for values_N in scores.divergence_KN], dim=1)
    else:
        scores = parts.scorer(pack, entropy=True)
        if taught.logps:
            by_teacher = [pad_rows([taught.logps[row] for row in rows]) for rows in of_teacher]
            teacher_logps_BKT = torch.stack(by_teacher, dim=1)
    assert scores.logps_N is not None
    assert scores.entropy_N is not None
    student_logps_BT = pack.to_rows(scores.logps_N)
    for place, i in enumerate(used):
        old_logps.setdefault(i, student_logps_BT[place, : len(batch.rollouts[i].completion.token_ids)].detach())
    return Evidence(
        mask_BT=mask_BT,
        student_logps_BT=student_logps_BT,
        old_logps_BT=pad_rows([old_logps[i] for i in used]),
        outcome_B=outcome_B[list(used)].to(device),
        advantages_B=advantages_B[list(used)].to(device),
        weights_BK=torch.tensor([[view.weight for view in batch.views[i]] for i in used], device=device),
        teacher_logps_BKT=teacher_logps_BKT,
        divergence_BKT=divergence_BKT,
        entropy_BT=pack.to_rows(scores.entropy_N),
    )


def apply_gradient(parts: Parts, lr: float, batch: Batch, losses: Sequence[tuple[list[int], Tensor]]) -> float:
    """Clip, check, step. Raises NonFiniteError, naming the rollouts, before a bad gradient reaches a weight."""
    trained = [p for p in parts.scorer.parameters() if p.requires_grad]
    norm = float(parts.accelerator.clip_grad_norm_(trained, parts.config.optimizer.grad_clip))
    if not math.isfinite(norm):
        bad = [i for indices, loss in losses if not math.isfinite(float(loss)) for i in indices]
        rollouts = [batch.rollouts[i] for i in bad] or batch.rollouts
        named = ", ".join(f"{r.problem.id} (rollout {r.completion.index})" for r in rollouts[:8])
        raise NonFiniteError(f"the gradient's norm is {norm}; rollouts of the pass: {named}")
    for group in parts.optimizer.param_groups:
        group["lr"] = lr
    parts.optimizer.step()
    parts.optimizer.zero_grad(set_to_none=True)
    return norm


def pad_rows(rows: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
