"""The metrics of a step. Sums stay on the device until the step ends, so that nothing waits for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sgsd.methods.method import LossInputs, LossOutputs, Method
from sgsd.records.rollout_schema import RolloutRecord, TeacherRecord
from sgsd.types import Rollout, Status, Verdict

#: Edges of the bins in which a step's teachers are counted; a value on an edge counts above it.
SUPPORT_EDGES = (-1.0, -0.3, -0.1, -0.03, -0.01, 0.01, 0.03, 0.1, 0.3, 1.0)  # nats a token
POLARITY_EDGES = (-0.6, -0.2, 0.2, 0.6)
TIES = 5  # decimals; supports that differ by rounding alone are equal


class StepMetrics:
    """Adds up micro-batches; `finish` turns the sums of all processes into shares and means.

    Args:
        vocabulary: tokens that a uniform guess chooses from; None: no `teacher_nll_ratio`.
    """

    def __init__(self, vocabulary: int | None = None) -> None:
        self.sums: dict[str, Tensor] = {}
        self.teachers: list[list[float]] | None = None  # support, outcome and polarity of each teacher
        self.sources: dict[str, list[float]] = {}  # by kind of context: teachers, weight, validated, reversed
        self.uniform = None if vocabulary is None else math.log(vocabulary)
        self.grad_norm = 0.0
        self.sampler_mismatch_max = 0.0

    def _add(self, name: str, value: Tensor | float) -> None:
        value = torch.as_tensor(value).detach().double()
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def add(self, outputs: LossOutputs, inputs: LossInputs, loss: Tensor) -> None:
        """Add one micro-batch."""
        mask_BT, present_BK = inputs.mask_BT, inputs.present_BK
        self._add("loss", loss)
        self._add("tokens", mask_BT.sum())
        if inputs.entropy_BT is not None:
            self._add("entropy", (inputs.entropy_BT * mask_BT).sum())
        for name, values_BT in outputs.metrics.items():
            self._add(f"objective/{name}", torch.where(mask_BT, values_BT, 0.0).sum())
        self._add_teacher_tokens(outputs, inputs)
        if outputs.stance_BK is not None and outputs.polarity_BK is not None:
            self._add("teachers", outputs.stance_BK.numel() if present_BK is None else present_BK.sum())
            for name, values_BK in (("stance", outputs.stance_BK), ("polarity", outputs.polarity_BK)):
                self._add(f"{name}_plus", (values_BK > 0).sum())
                self._add(f"{name}_minus", (values_BK < 0).sum())
        if present_BK is not None:
            self._add("skipped_teachers", (~present_BK).sum())
            self._add("untaught_rollouts", (~present_BK.any(-1)).sum())

    def _add_teacher_tokens(self, outputs: LossOutputs, inputs: LossInputs) -> None:
        """Add the teachers' numbers of each token, as far as the method has them."""
        delta_BKT, logps_BKT, divergence_BKT = outputs.delta_BKT, inputs.teacher_logps_BKT, inputs.divergence_BKT
        values_BKT = next((x for x in (delta_BKT, logps_BKT, divergence_BKT) if x is not None), None)
        if values_BKT is None:
            return
        mask_BKT = inputs.mask_BT[:, None, :].expand_as(values_BKT)
        if inputs.present_BK is not None:
            mask_BKT = mask_BKT & inputs.present_BK[:, :, None]
        self._add("teacher_tokens", mask_BKT.sum())
        if delta_BKT is not None:
            self._add("delta_abs", torch.where(mask_BKT, delta_BKT.abs(), 0.0).sum())
        if outputs.gate_BKT is not None:
            self._add("gate_kept", (2 * outputs.gate_BKT * mask_BKT).sum())
        if logps_BKT is not None:
            self._add("teacher_logp", torch.where(mask_BKT, logps_BKT, 0.0).sum())
        if divergence_BKT is not None:
            self._add("divergence", torch.where(mask_BKT, divergence_BKT, 0.0).sum())

    def add_outputs(self, batch: Any, details: Sequence[Any], style: Callable[[Sequence[int]], list[bool]]) -> None:
        """Add each teacher's polarity and each token's advantage, once all micro-batches are done."""
        if all(d.outputs.support_BK is not None and d.outputs.polarity_BK is not None for d in details):
            self.teachers = [row for detail in details for row in teachers_of(batch, detail)]
        for detail in details:
            count_sources(self.sources, batch.views[detail.position], detail)
        token_ids = [batch.rollouts[detail.position].completion.token_ids for detail in details]
        advantages_BT = pad_sequence(
            [advantage_sizes(d)[: len(ids)] for d, ids in zip(details, token_ids)], batch_first=True
        )
        mask_BT = pad_sequence([detail.mask_T for detail in details], batch_first=True).to(advantages_BT.device)
        style_BT = pad_sequence([torch.tensor(style(ids)) for ids in token_ids], batch_first=True).to(
            advantages_BT.device
        )
        advantages_BT = torch.where(mask_BT, advantages_BT.double(), 0.0)
        self._add("advantage", advantages_BT.sum())
        self._add("advantage_style", (advantages_BT * style_BT).sum())
        self._add("text_style", (mask_BT & style_BT).sum())

    def add_rollouts(
        self, rollouts: Sequence[Rollout], verdicts: Sequence[Verdict], method: Method | None = None
    ) -> None:
        """Add the step's rollouts and their verdicts; of differences among them, those that the method learns from."""
        self._add("rollouts", len(rollouts))
        self._add("correct", sum(v.status is Status.CORRECT for v in verdicts))
        self._add("ungraded", sum(v.outcome == 0 for v in verdicts))
        shares = [(verdict.signed_reward + 1) / 2 for verdict in verdicts if verdict.outcome]
        self._add("reward", sum(shares))
        self._add("with_reward", sum(v.reward is not None for v in verdicts))
        if method is not None and method.takes_rewards:
            self._add("reward_squared", sum(share**2 for share in shares))
        if method is not None and method.compares_siblings:
            rewards: dict[int, set[float]] = {}
            for rollout, verdict in zip(rollouts, verdicts, strict=True):
                rewards.setdefault(rollout.group, set()).update([verdict.signed_reward] if verdict.outcome else [])
            self._add("groups", len(rewards))
            self._add("groups_alike", sum(len(found) < 2 for found in rewards.values()))
        self._add("length", sum(len(r.completion.token_ids) for r in rollouts))
        self._add("truncated", sum(r.completion.finish == "length" for r in rollouts))

    def add_sampler(self, sampled: Sequence[Tensor], scored: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
        """Add |log p by the sampler − log p by the student| of the masked tokens, [T] a rollout."""
        gaps_N = torch.cat([(a - b.cpu()).abs()[mask] for a, b, mask in zip(sampled, scored, masks, strict=True)])
        self._add("sampler_mismatch", gaps_N.sum())
        self.sampler_mismatch_max = float(gaps_N.max()) if len(gaps_N) else 0.0

    def add_importance(self, weights_BT: Tensor, mask_BT: Tensor, cap: float) -> None:
        """Add the tokens' importance weights, and how many of them the cap cut."""
        self._add("importance_weight", (weights_BT * mask_BT).sum())
        self._add("importance_capped", ((weights_BT >= cap) & mask_BT).sum())

    def finish(
        self,
        all_sum: Callable[[Tensor], Tensor],
        largest: Callable[[float], float] = float,
        gather: Callable[[list[Any]], list[Any]] = list,
    ) -> dict[str, Any]:
        """Return the shares and means over all processes, as a line of metrics.jsonl.

        Args:
            all_sum: sums a tensor over the processes.
            largest: the largest of a number over the processes.
            gather: joins the lists of all processes.
        """
        names = sorted(self.sums)
        totals = dict(zip(names, all_sum(torch.stack([self.sums[name].cpu() for name in names])).tolist()))
        rollouts, tokens = totals["rollouts"], max(1.0, totals["tokens"])
        record = {
            "loss": totals["loss"],
            "grad_norm": self.grad_norm,
            "rollouts": int(rollouts),
            "accuracy": totals["correct"] / rollouts,
            "ungraded": totals["ungraded"] / rollouts,
            **({"groups_alike": totals["groups_alike"] / totals["groups"]} if "groups" in totals else {}),
            **reward_figures(totals),
            "length": totals["length"] / rollouts,
            "truncated": totals["truncated"] / rollouts,
        }
        if "entropy" in totals:
            record["entropy"] = totals["entropy"] / tokens
        if totals.get("advantage"):  # a step without any advantage has no shares
            record["style_token_share"] = totals["text_style"] / tokens
            record["style_advantage_share"] = totals["advantage_style"] / totals["advantage"]
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
            record |= teacher_metrics(gather(self.teachers))
        if len(kinds := joined_sources(gather([self.sources]))) > 1:
            record["sources"] = {source: source_shares(found, rollouts) for source, found in kinds.items()}
        record |= {name: totals[name] / tokens for name in _WEIGHTS if name in totals}
        if "sampler_mismatch" in totals:
            record["sampler_mismatch"] = totals["sampler_mismatch"] / tokens
            record["sampler_mismatch_max"] = largest(self.sampler_mismatch_max)
        record |= {name: total / tokens for name, total in totals.items() if name.startswith("objective/")}
        return record | {name: int(totals[name]) for name in _SKIPPED if name in totals}


def reward_figures(totals: dict[str, float]) -> dict[str, float]:
    """Mean and standard deviation of the graded rollouts' rewards, where a verifier gives some."""
    if not totals["with_reward"]:
        return {}
    graded = max(1.0, totals["rollouts"] - totals["ungraded"])
    mean = totals["reward"] / graded
    if "reward_squared" not in totals:
        return {"reward": mean}
    return {"reward": mean, "reward_std": math.sqrt(max(0.0, totals["reward_squared"] / graded - mean**2))}


_TEACHER_MEANS = ("delta_abs", "gate_kept", "divergence")  # a teacher's token
_WEIGHTS = ("importance_weight", "importance_capped")  # a trained token
_SKIPPED = ("skipped_teachers", "untaught_rollouts")  # counts, where prompts.unfit is skip
_SHARES = ("stance_plus", "stance_minus", "polarity_plus", "polarity_minus")


def teachers_of(batch: Any, detail: Any) -> list[list[float]]:
    """Support, outcome and polarity of each teacher that was asked about one rollout."""
    outputs, outcome = detail.outputs, float(batch.verdicts[detail.position].outcome)
    supports, polarities = (x_BK[detail.row].tolist() for x_BK in (outputs.support_BK, outputs.polarity_BK))
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
    """A kind's share of the weight, and how many of its teachers were validated or reversed."""
    count, weight, plus, minus = found
    return {"share": weight / rollouts, "teachers": count, "validated": plus / count, "reversed": minus / count}


def advantage_sizes(detail: Any) -> Tensor:
    """|A_t| of one rollout [T], or |loss_t| where there is no advantage."""
    outputs = detail.outputs
    values_BT = outputs.losses_BT if outputs.advantages_BT is None else outputs.advantages_BT
    return values_BT[detail.row].detach().abs()


def teacher_metrics(rows: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Histograms and AUC of N teachers, given as rows of support, outcome and polarity."""
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
    """How many values lie below the first edge, between each two, and from the last one on."""
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
    if verdict.reward is not None:
        record = record.model_copy(update={"reward": round(verdict.reward, 6)})
    return record.model_dump(exclude_unset=True)


def teacher_record(k: int, view: Any, detail: Any, length: int) -> TeacherRecord:
    """Teacher k of one rollout; one that was left out has no numbers."""
    outputs, row = detail.outputs, detail.row
    found: dict[str, Any] = {"source": view.source, "items": tuple(view.item_ids), "weight": round(view.weight, 6)}
    if not view.prompt_ids:
        return TeacherRecord(**found, skipped=True)
    if outputs.delta_BKT is not None and outputs.gate_BKT is not None:
        found["delta"] = rounded(outputs.delta_BKT[row, k, :length])
        found["gate"] = rounded(outputs.gate_BKT[row, k, :length])
    if outputs.support_BK is not None:
        found["support"] = round(float(outputs.support_BK[row, k]), 6)
        found["stance"] = int(outputs.stance_BK[row, k])
        found["polarity"] = int(outputs.polarity_BK[row, k])
    return TeacherRecord(**found)


def rounded(values_T: Tensor) -> tuple[float, ...]:
    return tuple(round(value, 6) for value in values_T.detach().float().tolist())
