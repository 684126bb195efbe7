"""The numbers of a step. Sums stay on the device until the step ends, so that nothing waits for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sgsd.methods.method import LossInputs, LossOutputs
from sgsd.records.rollout_schema import RolloutRecord, TeacherRecord
from sgsd.types import Rollout, Status, Verdict

#: Edges of the bins in which a step's teachers are counted; a value on an edge counts above it.
SUPPORT_EDGES = (-1.0, -0.3, -0.1, -0.03, -0.01, 0.01, 0.03, 0.1, 0.3, 1.0)  # nats a token
POLARITY_EDGES = (-0.6, -0.2, 0.2, 0.6)
TIES = 5  # decimals; supports that differ by rounding alone are equal


class StepMetrics:
    """Adds up micro-batches; `finish` turns the sums of all processes into shares and means.

    `vocabulary` is the number of tokens that a uniform guess has the choice of.
    """

    def __init__(self, vocabulary: int | None = None) -> None:
        self.sums: dict[str, Tensor] = {}
        self.teachers: list[list[float]] | None = None  # support, outcome and polarity of each that was asked
        self.sources: dict[
            str, list[float]
        ] = {}  # of each kind of teacher: how many, their weight, validated, reversed
        self.uniform = None if vocabulary is None else math.log(vocabulary)
        self.grad_norm = 0.0
        self.sampler_mismatch_max = 0.0

    def _add(self, name: str, value: Tensor | float) -> None:
        value = torch.as_tensor(value).detach().double()
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def add(self, judgement: LossOutputs, evidence: LossInputs, loss: Tensor) -> None:
        """One micro-batch, as the method judged it."""
        mask_BT, present_BK = evidence.mask_BT, evidence.present_BK
        self._add("loss", loss)
        self._add("tokens", mask_BT.sum())
        if evidence.entropy_BT is not None:
            self._add("entropy", (evidence.entropy_BT * mask_BT).sum())
        for name, values_BT in judgement.metrics.items():
            self._add(f"own_{name}", torch.where(mask_BT, values_BT, 0.0).sum())
        self._add_teacher_tokens(judgement, evidence)
        if judgement.stance_BK is not None and judgement.polarity_BK is not None:
            self._add("teachers", judgement.stance_BK.numel() if present_BK is None else present_BK.sum())
            for name, values_BK in (("stance", judgement.stance_BK), ("polarity", judgement.polarity_BK)):
                self._add(f"{name}_plus", (values_BK > 0).sum())
                self._add(f"{name}_minus", (values_BK < 0).sum())
        if present_BK is not None:
            self._add("skipped_teachers", (~present_BK).sum())
            self._add("untaught_rollouts", (~present_BK.any(-1)).sum())

    def _add_teacher_tokens(self, judgement: LossOutputs, evidence: LossInputs) -> None:
        """What the teachers say token by token, as far as the method asks them."""
        delta_BKT, logps_BKT, divergence_BKT = judgement.delta_BKT, evidence.teacher_logps_BKT, evidence.divergence_BKT
        said_BKT = next((x for x in (delta_BKT, logps_BKT, divergence_BKT) if x is not None), None)
        if said_BKT is None:
            return
        mask_BKT = evidence.mask_BT[:, None, :].expand_as(said_BKT)
        if evidence.present_BK is not None:
            mask_BKT = mask_BKT & evidence.present_BK[:, :, None]
        self._add("teacher_tokens", mask_BKT.sum())
        if delta_BKT is not None:
            self._add("delta_abs", torch.where(mask_BKT, delta_BKT.abs(), 0.0).sum())
        if judgement.gate_BKT is not None:
            self._add("gate_kept", (2 * judgement.gate_BKT * mask_BKT).sum())
        if logps_BKT is not None:
            self._add("teacher_logp", torch.where(mask_BKT, logps_BKT, 0.0).sum())
        if divergence_BKT is not None:
            self._add("divergence", torch.where(mask_BKT, divergence_BKT, 0.0).sum())

    def add_judged(self, batch: Any, details: Sequence[Any], style: Callable[[Sequence[int]], list[bool]]) -> None:
        """What came of every rollout, once the passes are done: each teacher's verdict, and what the loss pulls at."""
        if all(d.outputs.support_BK is not None and d.outputs.polarity_BK is not None for d in details):
            self.teachers = [row for detail in details for row in teachers_of(batch, detail)]
        for detail in details:
            count_sources(self.sources, batch.views[detail.position], detail)
        token_ids = [batch.rollouts[detail.position].completion.token_ids for detail in details]
        pulls_BT = pad_sequence([pulls(d)[: len(ids)] for d, ids in zip(details, token_ids)], batch_first=True)
        mask_BT = pad_sequence([detail.mask_T for detail in details], batch_first=True).to(pulls_BT.device)
        style_BT = pad_sequence([torch.tensor(style(ids)) for ids in token_ids], batch_first=True).to(pulls_BT.device)
        pulls_BT = torch.where(mask_BT, pulls_BT.double(), 0.0)
        self._add("pull", pulls_BT.sum())
        self._add("pull_style", (pulls_BT * style_BT).sum())
        self._add("text_style", (mask_BT & style_BT).sum())

    def add_rollouts(self, rollouts: Sequence[Rollout], verdicts: Sequence[Verdict]) -> None:
        """What was sampled and how it was graded."""
        self._add("rollouts", len(rollouts))
        self._add("correct", sum(v.status is Status.CORRECT for v in verdicts))
        self._add("ungraded", sum(v.outcome == 0 for v in verdicts))
        self._add("length", sum(len(r.completion.token_ids) for r in rollouts))
        self._add("truncated", sum(r.completion.finish == "length" for r in rollouts))

    def add_sampler(self, said: Sequence[Tensor], scored: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
        """How far the sampler's log-probs of its tokens are from the student's, [T] a rollout: the weights are one."""
        gaps_N = torch.cat([(a - b.cpu()).abs()[mask] for a, b, mask in zip(said, scored, masks, strict=True)])
        self._add("sampler_mismatch", gaps_N.sum())
        self.sampler_mismatch_max = float(gaps_N.max()) if len(gaps_N) else 0.0

    def add_importance(self, weights_BT: Tensor, mask_BT: Tensor, cap: float) -> None:
        """What the sampler's tokens were weighed by, and how many of them the cap cut."""
        self._add("importance_weight", (weights_BT * mask_BT).sum())
        self._add("importance_capped", ((weights_BT >= cap) & mask_BT).sum())

    def finish(
        self,
        all_sum: Callable[[Tensor], Tensor],
        largest: Callable[[float], float] = float,
        gather: Callable[[list[Any]], list[Any]] = list,
    ) -> dict[str, Any]:
        """Shares and means over all processes, ready for metrics.jsonl; `gather` puts the processes' lists together."""
        names = sorted(self.sums)
        totals = dict(zip(names, all_sum(torch.stack([self.sums[name].cpu() for name in names])).tolist()))
        rollouts, tokens = totals["rollouts"], max(1.0, totals["tokens"])
        record = {
            "loss": totals["loss"],
            "grad_norm": self.grad_norm,
            "rollouts": int(rollouts),
            "accuracy": totals["correct"] / rollouts,
            "ungraded": totals["ungraded"] / rollouts,
            "length": totals["length"] / rollouts,
            "truncated": totals["truncated"] / rollouts,
        }
        if "entropy" in totals:
            record["entropy"] = totals["entropy"] / tokens
        if totals.get("pull"):  # of a step in which nothing pulls, no share can be given
            record["style_token_share"] = totals["text_style"] / tokens
            record["style_advantage_share"] = totals["pull_style"] / totals["pull"]
        if "teacher_tokens" in totals:
            count = max(1.0, totals["teacher_tokens"])
            record |= {name: totals[name] / count for name in _TEACHER_MEANS if name in totals}
            if "teacher_logp" in totals and self.uniform:
                record["teacher_nll_ratio"] = -totals["teacher_logp"] / count / self.uniform
        if "teachers" in totals:
            shares = {name: totals[name] / max(1.0, totals["teachers"]) for name in _SHARES}
            record |= {
                "stance/supports": shares["stance_plus"],
                "stance/neutral": max(0.0, 1 - shares["stance_plus"] - shares["stance_minus"]),
                "stance/suppresses": shares["stance_minus"],
                "polarity/validated": shares["polarity_plus"],
                "polarity/neutral": max(0.0, 1 - shares["polarity_plus"] - shares["polarity_minus"]),
                "polarity/reversed": shares["polarity_minus"],
            }
        if self.teachers is not None:
            record |= teacher_figures(gather(self.teachers))
        if len(kinds := joined_sources(gather([self.sources]))) > 1:
            record["sources"] = {source: source_shares(found, rollouts) for source, found in kinds.items()}
        record |= {name: totals[name] / tokens for name in _WEIGHTS if name in totals}
        if "sampler_mismatch" in totals:
            record["sampler_mismatch"] = totals["sampler_mismatch"] / tokens
            record["sampler_mismatch_max"] = largest(self.sampler_mismatch_max)
        record |= {name: total / tokens for name, total in totals.items() if name.startswith("own_")}
        return record | {name: int(totals[name]) for name in _SKIPPED if name in totals}


_TEACHER_MEANS = ("delta_abs", "gate_kept", "divergence")  # a teacher's token
_WEIGHTS = ("importance_weight", "importance_capped")  # a trained token
_SKIPPED = ("skipped_teachers", "untaught_rollouts")  # counts, where prompts.unfit is skip
_SHARES = ("stance_plus", "stance_minus", "polarity_plus", "polarity_minus")


def teachers_of(batch: Any, detail: Any) -> list[list[float]]:
    """Support, outcome and polarity of each teacher that was asked about one rollout."""
    judgement, outcome = detail.outputs, float(batch.verdicts[detail.position].outcome)
    supports, polarities = (x_BK[detail.row].tolist() for x_BK in (judgement.support_BK, judgement.polarity_BK))
    pool = zip(batch.views[detail.position], supports, polarities)
    return [[support, outcome, polarity] for view, support, polarity in pool if view.prompt_ids]


def count_sources(sources: dict[str, list[float]], pool: Sequence[Any], detail: Any) -> None:
    """Add one rollout's pool of teachers to the counts by kind."""
    polarity_BK = detail.outputs.polarity_BK
    polarities = [0.0] * len(pool) if polarity_BK is None else polarity_BK[detail.row].tolist()
    for view, polarity in zip(pool, polarities):
        if view.prompt_ids:
            row = [1.0, view.weight, float(polarity > 0), float(polarity < 0)]
            sources[view.source] = [a + b for a, b in zip(sources.get(view.source, [0.0] * 4), row)]


def joined_sources(parts: Sequence[dict[str, list[float]]]) -> dict[str, list[float]]:
    """The counts of all processes, by kind."""
    kinds = sorted({source for part in parts for source in part})
    return {kind: [sum(x) for x in zip(*(part[kind] for part in parts if kind in part))] for kind in kinds}


def source_shares(found: Sequence[float], rollouts: float) -> dict[str, float]:
    """A kind's share of the weight (of all rollouts), and how its teachers were judged."""
    count, weight, plus, minus = found
    return {"share": weight / rollouts, "teachers": count, "validated": plus / count, "reversed": minus / count}


def pulls(detail: Any) -> Tensor:
    """How strongly the loss pulls at each token of one rollout, [T]: |A|, or the loss where there is no advantage."""
    judgement = detail.outputs
    values_BT = judgement.losses_BT if judgement.advantages_BT is None else judgement.advantages_BT
    return values_BT[detail.row].detach().abs()


def teacher_figures(rows: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Of N teachers (support, outcome, polarity): how many in which bin, and how well support separates."""
    support_N, outcome_N, polarity_N = np.array(rows, dtype=float).reshape(-1, 3).T
    known_N = outcome_N != 0
    figures: dict[str, Any] = {
        "support_histogram": counts(support_N, SUPPORT_EDGES),
        "polarity_histogram": counts(polarity_N, POLARITY_EDGES),
        "support_below_zero": float((support_N < 0).mean()) if len(support_N) else 0.0,
        "support_auc_count": int(known_N.sum()),
    }
    found = separation(support_N[known_N], outcome_N[known_N] > 0)
    return figures if found is None else {**figures, "support_auc": found}


def counts(values_N: np.ndarray, edges: Sequence[float]) -> list[int]:
    """How many values lie below the first edge, between two, …, from the last one on."""
    return np.bincount(np.searchsorted(edges, values_N, side="right"), minlength=len(edges) + 1).tolist()


def separation(scores_N: np.ndarray, right_N: np.ndarray) -> float | None:
    """AUC: the share of (right, wrong) pairs in which the right one scores higher, ties half; None without both."""
    scores_N = np.round(scores_N, TIES)
    won, lost = scores_N[right_N], np.sort(scores_N[~right_N])
    if not len(won) or not len(lost):
        return None
    beaten = np.searchsorted(lost, won, side="left") + np.searchsorted(lost, won, side="right")
    return float(beaten.sum() / (2 * len(won) * len(lost)))


def rollout_record(
    step: int,
    rollout: Rollout,
    verdict: Verdict,
    tokens: Sequence[str],
    mask_T: Tensor,
    detail: Any,
    pool: Sequence[Any],
) -> dict[str, Any]:
    """One rollout with every token's numbers, as a line of rollouts.jsonl."""
    advantages_BT = detail.outputs.advantages_BT
    record = RolloutRecord(
        step=step,
        index=rollout.completion.index,
        problem_id=rollout.problem.id,
        problem=rollout.problem.text,
        gold=rollout.problem.gold,
        completion=rollout.completion.text,
        tokens=tuple(tokens),
        status=str(verdict.status),
        answer=verdict.answer,
        outcome=verdict.outcome,
        mask=tuple(mask_T.tolist()),
        teachers=tuple(teacher_record(k, view, detail, len(tokens)) for k, view in enumerate(pool)),
        advantages=() if advantages_BT is None else rounded(advantages_BT[detail.row, : len(tokens)]),
    )
    return record.model_dump(exclude_unset=True)


def teacher_record(k: int, view: Any, detail: Any, length: int) -> TeacherRecord:
    """Teacher k of one rollout; one that was left out has no numbers."""
    judgement, row = detail.outputs, detail.row
    found: dict[str, Any] = {"source": view.source, "items": tuple(view.item_ids), "weight": round(view.weight, 6)}
    if not view.prompt_ids:
        return TeacherRecord(**found, skipped=True)
    if judgement.delta_BKT is not None and judgement.gate_BKT is not None:
        found["delta"] = rounded(judgement.delta_BKT[row, k, :length])
        found["gate"] = rounded(judgement.gate_BKT[row, k, :length])
    if judgement.support_BK is not None:
        found["support"] = round(float(judgement.support_BK[row, k]), 6)
        found["stance"] = int(judgement.stance_BK[row, k])
        found["polarity"] = int(judgement.polarity_BK[row, k])
    return TeacherRecord(**found)


def rounded(values_T: Tensor) -> tuple[float, ...]:
    return tuple(round(value, 6) for value in values_T.detach().float().tolist())
