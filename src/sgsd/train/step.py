"""One step of training on a batch: score the teachers, compute the objective's loss, update."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from accelerate.utils import gather_object
from torch import Tensor

from sgsd.bank import TeacherObservation
from sgsd.config.run_config import RunConfig
from sgsd.contexts.controls import is_control
from sgsd.distributed.processes import all_sum
from sgsd.methods import advantages
from sgsd.methods.averages import token_weights
from sgsd.methods.losses import importance_weights
from sgsd.methods.method import LossInputs, LossOutputs, Method
from sgsd.records.metrics import StepMetrics
from sgsd.rollout import Engine
from sgsd.scorer import PackedBatch, Row, Scores, teacher_layout
from sgsd.train.batch import Batch
from sgsd.train.evidence_log import EvidenceLog
from sgsd.train.microbatch import run_microbatches
from sgsd.train.policy import NonFiniteError, Policy
from sgsd.train.sampler_mismatch import check_gap, draws_dropout, mean_gap
from sgsd.types import Completion, UserError


@dataclass(frozen=True)
class Learner:
    """Everything that scoring, the loss and an update go by."""

    config: RunConfig
    method: Method
    policy: Policy
    engine: Engine  # whose log-probs are compared with the trainer's
    evidence_log: EvidenceLog  # trust in the teachers' items, for methods that follow it
    ignored_token_ids: frozenset[int]
    may_leave_out: bool  # whether a teacher may be missing; a property of the run, so that all processes count alike
    group: int  # rollouts of one problem in a step

    def token_mask(self, completion: Completion) -> Tensor:
        """The tokens [T] that the loss is of: all, or all but special ones, think tags and runs of newlines."""
        if self.config.mask_truncated and completion.finish == "length":
            return torch.zeros(len(completion.token_ids), dtype=torch.bool)
        every = self.method.tokens == "all"
        return torch.tensor([every or token not in self.ignored_token_ids for token in completion.token_ids])


@dataclass(frozen=True)
class TeacherScores:
    """The teachers' log-probs or hidden states of every rollout, in the order of `Batch.teacher_rows`."""

    logps: list[Tensor] = field(default_factory=list)  # each [T of that rollout]
    hidden: list[Tensor] = field(default_factory=list)  # each [T, D]
    nulls: list[Tensor] = field(default_factory=list)  # log-probs in the order of `Batch.null_rows`


@dataclass
class Detail:
    """The loss's outputs for one rollout, for the evidence log and the records."""

    position: int  # in the batch
    outputs: LossOutputs
    row: int  # in the outputs
    mask_T: Tensor


@dataclass
class TeacherPasses:
    """The teachers' log-probs, hidden states, or both, by the number of the row."""

    learner: Learner
    rows: Sequence[Row]
    logps: dict[int, Tensor] = field(default_factory=dict)
    hidden: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, indices: list[int], pack: PackedBatch, *, last: bool) -> None:
        whole, tokens = self.learner.method.objective.needs_divergence, self.learner.method.reads_tokens
        scores: Scores = self.learner.policy.scorer(pack, role="teacher", hidden_only=not tokens, with_hidden=whole)
        lengths = [len(self.rows[i].completion_ids) for i in indices]  # none: a pass made for the others' sake
        for kept, values in ((self.logps, scores.logps_N), (self.hidden, scores.hidden_ND)):
            if indices and values is not None:
                kept.update(zip(indices, values.split(lengths)))


def score_teachers(learner: Learner, batch: Batch) -> TeacherScores:
    """All teachers of all rollouts, the null ones among them, in passes of a token budget; no gradient."""
    policy, taught = learner.policy, batch.teacher_rows()
    rows = [*taught, *batch.null_rows()]
    layout = teacher_layout(
        group=learner.group,
        attention=learner.config.model.attention,
        device=policy.device.type,
        shares=policy.bare_scorer.shares_prefixes,
    )
    idle, begin = batch.student_rows()[0], lambda: TeacherPasses(learner, rows)
    scored = run_microbatches(policy, "teacher", rows, idle, begin, layout=layout)
    logps, hidden = ([kept[i] for i in sorted(kept)] for kept in (scored.logps, scored.hidden))
    return TeacherScores(logps[: len(taught)], hidden[: len(taught)], nulls=logps[len(taught) :])


@dataclass
class LossPasses:
    """The objective's loss of every rollout, micro-batch by micro-batch, without a gradient."""

    learner: Learner
    batch: Batch
    taught: TeacherScores
    masks: Sequence[Tensor]
    advantages_B: Tensor
    old_logps: dict[int, Tensor] = field(default_factory=dict)  # filled by the first update of a step
    details: list[Detail] = field(default_factory=list)
    metrics: StepMetrics = field(default_factory=StepMetrics)

    def __call__(self, indices: list[int], pack: PackedBatch, *, last: bool) -> None:
        """An idle micro-batch, without indices, is made for the sake of the other processes."""
        inputs = self.loss_inputs(pack, indices or [0])
        outputs = self.learner.method.objective.loss(inputs, self.learner.method)
        loss = self.take_loss(outputs, inputs, indices, last=last)
        if indices:
            self.metrics.add(outputs, inputs, loss)
            self.details += [Detail(i, outputs, row, self.masks[i]) for row, i in enumerate(indices)]

    def take_loss(self, outputs: LossOutputs, inputs: LossInputs, indices: list[int], *, last: bool) -> Tensor:
        return torch.zeros(())

    def loss_inputs(self, pack: PackedBatch, used: Sequence[int]) -> LossInputs:
        """Score one student pass and lay the teachers beside it."""
        learner, batch, taught = self.learner, self.batch, self.taught
        device, K = pack.targets_N.device, batch.teachers
        lengths = [len(batch.rollouts[i].completion.token_ids) for i in used]
        places_KB = [[rows[i] for i in used] for rows in batch.rows_of_teachers()]
        present = [[place is not None for place in places] for places in zip(*places_KB)]
        scores = self.score_student(pack, places_KB, lengths)
        assert scores.logps_N is not None
        assert scores.entropy_N is not None
        student_logps_BT = pack.to_rows(scores.logps_N)
        own = [row_T[:length].detach() for row_T, length in zip(student_logps_BT, lengths)]
        teacher_logps_BKT = divergence_BKT = local_gap_BKT = null_logps_BT = trust_BK = None
        if (values_KN := scores.divergence_KN) is not None:
            if learner.method.objective.needs_sampled:
                values_KN, gaps_KN = values_KN.unbind(1)
                local_gap_BKT = torch.stack([pack.to_rows(gaps_N) for gaps_N in gaps_KN.detach()], dim=1)
            divergence_BKT = torch.stack([pack.to_rows(values_N) for values_N in values_KN], dim=1)
        elif learner.method.objective.needs_divergence:
            divergence_BKT = 0.0 * student_logps_BT[:, None].expand(-1, K, -1)  # all left out: no loss, yet a gradient
        if K and learner.method.reads_tokens:
            # A teacher that was left out says what the student says: no gap, no stance; its weight is 0.
            by_teacher = [pad_rows(choose(taught.logps, places, own.__getitem__)) for places in places_KB]
            teacher_logps_BKT = torch.stack(by_teacher, dim=1)
        if batch.nulls:
            nulls = [batch.rows_of_nulls()[i] for i in used]
            null_logps_BT = pad_rows(choose(taught.nulls, nulls, own.__getitem__))
        if learner.method.stance.needs_trust:
            trust_BK = torch.tensor([self.trusts(i) for i in used], device=device)
        for i, logps_T in zip(used, own):
            self.old_logps.setdefault(i, logps_T)
        return LossInputs(
            mask_BT=pad_rows([self.masks[i] for i in used]).to(device),
            student_logps_BT=student_logps_BT,
            old_logps_BT=pad_rows([self.old_logps[i] for i in used]),
            outcome_B=torch.tensor([batch.verdicts[i].outcome for i in used], dtype=torch.float32, device=device),
            advantages_B=self.advantages_B[list(used)].to(device),
            weights_BK=torch.tensor([batch.weights(i) for i in used], device=device),
            teacher_logps_BKT=teacher_logps_BKT,
            null_logps_BT=null_logps_BT,
            divergence_BKT=divergence_BKT,
            local_gap_BKT=local_gap_BKT,
            entropy_BT=pack.to_rows(scores.entropy_N),
            trust_BK=trust_BK,
            present_BK=torch.tensor(present, device=device) if K and learner.may_leave_out else None,
        )

    def score_student(
        self, pack: PackedBatch, places_KB: Sequence[Sequence[int | None]], lengths: Sequence[int]
    ) -> Scores:
        """The student's log-probs, and the divergence from each teacher where the objective asks for it."""
        scorer, objective, hidden = self.learner.policy.scorer, self.learner.method.objective, self.taught.hidden
        if not objective.needs_divergence or not any(place is not None for places in places_KB for place in places):
            return scorer(pack, entropy=True)
        blank = hidden[0].new_zeros(max(lengths), hidden[0].shape[-1])  # any state: its weight is 0
        states_KND = [torch.cat(choose(hidden, places, lambda b: blank[: lengths[b]])) for places in places_KB]
        asked = {"divergence": objective.divergence, "of_sampled": objective.needs_sampled}
        return scorer(pack, entropy=True, teacher_hidden_KND=states_KND, **asked)

    def trusts(self, rollout: int) -> list[float]:
        """The ledger's trust in each of a rollout's K teachers; 0 where a pool has fewer."""
        trusts = [self.learner.evidence_log.ledger.trust(*view.item_ids) for view in self.batch.views[rollout]]
        return trusts + [0.0] * (self.batch.teachers - len(trusts))


@dataclass
class StudentPasses(LossPasses):
    """The same with the gradient of one update."""

    tokens: int = 0  # of all processes
    losses: list[tuple[list[int], Tensor]] = field(default_factory=list)

    def take_loss(self, outputs: LossOutputs, inputs: LossInputs, indices: list[int], *, last: bool) -> Tensor:
        config, policy = self.learner.config, self.learner.policy
        shares_BT = token_weights(
            inputs.mask_BT,
            self.learner.method.reduce,
            rollouts=config.rollouts,
            tokens=self.tokens,
            max_tokens=config.sampling.max_tokens,
        )
        # An idle process goes through the motions with weight 0; all launches average over processes.
        loss = (shares_BT * self.corrected(outputs.losses_BT, inputs, indices)).sum() * bool(indices)
        policy.strategy.backward(loss * policy.accelerator.num_processes, last=last)
        self.losses.append((indices, loss.detach()))
        return loss.detach()

    def corrected(self, losses_BT: Tensor, inputs: LossInputs, indices: Sequence[int]) -> Tensor:
        """Weighed by how much likelier a token was to the student than to the sampler, where that is asked for."""
        cap, said = self.learner.config.rollout.importance_cap, self.batch.sampled_logps()
        if cap is None:
            return losses_BT
        if said is None:
            raise UserError("rollout.importance_cap: the engine does not say its log-probabilities; leave it out")
        sampler_BT = pad_rows([said[i] for i in indices or [0]]).to(losses_BT.device)
        weights_BT = importance_weights(inputs.old_logps_BT, sampler_BT, cap=cap)
        if indices:
            self.metrics.add_importance(weights_BT, inputs.mask_BT, cap)
        return losses_BT * weights_BT


def update(learner: Learner, batch: Batch, taught: TeacherScores, metrics: StepMetrics, lr: float) -> list[Detail]:
    """One student pass a rollout and iteration, whatever the number of teachers; then the optimizer."""
    policy = learner.policy
    advantages_B = outcome_advantages(learner, batch)
    masks = [learner.token_mask(r.completion) for r in batch.rollouts]
    tokens = int(all_sum(policy.accelerator, sum(int(mask.sum()) for mask in masks)))
    old_logps: dict[int, Tensor] = {}
    details: list[Detail] = []
    rows = batch.student_rows()

    def begin() -> StudentPasses:
        return StudentPasses(learner, batch, taught, masks, advantages_B, dict(old_logps), tokens=tokens)

    for iteration in range(learner.method.iterations):
        done = run_microbatches(policy, "student", rows, rows[0], begin)
        old_logps = done.old_logps
        if iteration == 0:
            metrics.sums.update(done.metrics.sums)
            details = done.details
            if (said := batch.sampled_logps()) is not None:
                scored = [old_logps[i] for i in range(len(said))]
                metrics.add_sampler(said, scored, masks)
                if not draws_dropout(policy.model):
                    gap, alarm = mean_gap(said, scored), learner.config.rollout.mismatch_warning
                    check_gap(policy, learner.engine, gap, alarm=alarm, staleness=batch.staleness)
        metrics.grad_norm = apply_gradient(learner, lr, batch, done.losses)
    return sorted(details, key=lambda detail: detail.position)


def outcome_advantages(learner: Learner, batch: Batch) -> Tensor:
    """Of this process's rollouts, from the outcomes of all: a mean over the step is one over all processes."""
    pairs = zip(batch.rollouts, batch.verdicts)
    mine = [(r.completion.index, r.group, v.signed_reward, v.outcome != 0) for r, v in pairs]
    step = sorted(gather_object(mine))  # by the rollout's index: any number of processes adds up in one order
    reward_S, group_S = torch.tensor([row[2] for row in step]), torch.tensor([row[1] for row in step])
    known_S = torch.tensor([row[3] for row in step])
    advantages_S = advantages.outcome_advantages(learner.method, reward_S, group_S, known_S)
    places = {row[0]: place for place, row in enumerate(step)}
    return advantages_S[[places[row[0]] for row in mine]]


def observations(batch: Batch, details: Sequence[Detail]) -> list[tuple[int, TeacherObservation]]:
    """Every teacher of a bank that was judged, with the index of the rollout; controls say nothing of their items."""
    found = []
    for detail in details:
        outputs, rollout = detail.outputs, batch.rollouts[detail.position]
        if outputs.support_BK is None or outputs.polarity_BK is None:
            continue
        outcome = batch.verdicts[detail.position].outcome
        supports, polarities = outputs.support_BK[detail.row].tolist(), outputs.polarity_BK[detail.row].tolist()
        for view, support, polarity in zip(batch.views[detail.position], supports, polarities):
            if view.item_ids and view.prompt_ids and not is_control(view.source):
                seen = TeacherObservation(view.item_ids, outcome, support, int(polarity))
                found.append((rollout.completion.index, seen))
    return found


def choose(values: Sequence[Tensor], places: Sequence[int | None], absent: Callable[[int], Tensor]) -> list[Tensor]:
    """The values at `places`, and `absent(b)` where row b has none."""
    return [absent(b) if place is None else values[place] for b, place in enumerate(places)]


def apply_gradient(learner: Learner, lr: float, batch: Batch, losses: Sequence[tuple[list[int], Tensor]]) -> float:
    """Clip, check, step. Raises NonFiniteError, naming the rollouts, before a bad gradient reaches a weight."""
    norm = learner.policy.strategy.gradient_norm(learner.config.optimizer.max_grad_norm)
    if not math.isfinite(norm):
        bad = [i for indices, loss in losses if not math.isfinite(float(loss)) for i in indices]
        rollouts = [batch.rollouts[i] for i in bad] or batch.rollouts
        named = ", ".join(f"{r.problem.id} (rollout {r.completion.index})" for r in rollouts[:8])
        raise NonFiniteError(f"the gradient's norm is {norm}; rollouts of the pass: {named}")
    learner.policy.step(lr)
    return norm


def pad_rows(rows: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


@dataclass(frozen=True)
class StepResult:
    """Everything that is logged of one step, on this process."""

    step: int
    lr: float
    batch: Batch
    details: list[Detail]  # one a rollout
    metrics: StepMetrics
