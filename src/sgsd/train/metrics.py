"""The numbers of a step. Sums stay on the device until the step ends, so that nothing waits for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sgsd.method.spec import Evidence, Judgement
from sgsd.types import Rollout, Status, Verdict


class StepMetrics:
    """Adds up micro-batches; `finish` turns the sums of all processes into shares and means."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.grad_norm = 0.0
        self.sampler_gap_max = 0.0

    def _add(self, name: str, value: Tensor | float) -> None:
        value = torch.as_tensor(value).detach().double()
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def add(self, judgement: Judgement, evidence: Evidence, loss: Tensor) -> None:
        """One micro-batch, as the method judged it."""
        mask_BT, present_BK = evidence.mask_BT, evidence.present_BK
        self._add("loss", loss)
        self._add("tokens", mask_BT.sum())
        if evidence.entropy_BT is not None:
            self._add("entropy", (evidence.entropy_BT * mask_BT).sum())
        if judgement.delta_BKT is not None and judgement.slope_BKT is not None:
            mask_BKT = mask_BT[:, None, :].expand_as(judgement.delta_BKT)
            if present_BK is not None:
                mask_BKT = mask_BKT & present_BK[:, :, None]
            self._add("teacher_tokens", mask_BKT.sum())
            self._add("delta_abs", judgement.delta_BKT.abs().sum())
            self._add("gate_kept", (2 * judgement.slope_BKT * mask_BKT).sum())
        if judgement.stance_BK is not None and judgement.polarity_BK is not None:
            self._add("teachers", judgement.stance_BK.numel() if present_BK is None else present_BK.sum())
            for name, values_BK in (("support", judgement.stance_BK), ("polarity", judgement.polarity_BK)):
                self._add(f"{name}_plus", (values_BK > 0).sum())
                self._add(f"{name}_minus", (values_BK < 0).sum())
        if present_BK is not None:
            self._add("skipped_teachers", (~present_BK).sum())
            self._add("untaught_rollouts", (~present_BK.any(-1)).sum())

    def add_rollouts(self, rollouts: Sequence[Rollout], verdicts: Sequence[Verdict]) -> None:
        """What was sampled and how it was graded."""
        self._add("rollouts", len(rollouts))
        self._add("correct", sum(v.status is Status.CORRECT for v in verdicts))
        self._add("unknown", sum(v.outcome == 0 for v in verdicts))
        self._add("length", sum(len(r.completion.token_ids) for r in rollouts))
        self._add("truncated", sum(r.completion.finish == "length" for r in rollouts))

    def add_sampler(self, said: Sequence[Tensor], scored: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
        """How far the sampler's log-probs of its tokens are from the student's, [T] a rollout: the weights are one."""
        gaps_N = torch.cat([(a - b.cpu()).abs()[mask] for a, b, mask in zip(said, scored, masks, strict=True)])
        self._add("sampler_gap", gaps_N.sum())
        self.sampler_gap_max = float(gaps_N.max()) if len(gaps_N) else 0.0

    def finish(self, all_sum: Callable[[Tensor], Tensor], largest: Callable[[float], float] = float) -> dict[str, Any]:
        """Shares and means over all processes, ready for metrics.jsonl."""
        names = sorted(self.sums)
        totals = dict(zip(names, all_sum(torch.stack([self.sums[name].cpu() for name in names])).tolist()))
        rollouts, tokens = totals["rollouts"], max(1.0, totals["tokens"])
        record = {
            "loss": totals["loss"],
            "grad_norm": self.grad_norm,
            "rollouts": int(rollouts),
            "accuracy": totals["correct"] / rollouts,
            "unknown": totals["unknown"] / rollouts,
            "length": totals["length"] / rollouts,
            "truncated": totals["truncated"] / rollouts,
        }
        if "entropy" in totals:
            record["entropy"] = totals["entropy"] / tokens
        if "teacher_tokens" in totals:
            count = max(1.0, totals["teacher_tokens"])
            record |= {"delta_abs": totals["delta_abs"] / count, "gate_kept": totals["gate_kept"] / count}
        if "teachers" in totals:
            shares = {name: totals[name] / max(1.0, totals["teachers"]) for name in _SHARES}
            record |= {
                "support_plus": shares["support_plus"],
                "support_zero": max(0.0, 1 - shares["support_plus"] - shares["support_minus"]),
                "support_minus": shares["support_minus"],
                "validated": shares["polarity_plus"],
                "neutral": max(0.0, 1 - shares["polarity_plus"] - shares["polarity_minus"]),
                "reversed": shares["polarity_minus"],
            }
        if "sampler_gap" in totals:
            record |= {"sampler_gap": totals["sampler_gap"] / tokens, "sampler_gap_max": largest(self.sampler_gap_max)}
        return record | {name: int(totals[name]) for name in _SKIPPED if name in totals}


_SKIPPED = ("skipped_teachers", "untaught_rollouts")  # counts, where prompts.unfit is skip
_SHARES = ("support_plus", "support_minus", "polarity_plus", "polarity_minus")


def rollout_record(
    step: int,
    rollout: Rollout,
    verdict: Verdict,
    tokens: Sequence[str],
    mask_T: Tensor,
    detail: Any,
    pool: Sequence[Any],
) -> dict[str, Any]:
    """One rollout with every token's numbers, for rollouts.jsonl and the report."""
    judgement, row, T = detail.judgement, detail.row, len(tokens)

    def numbers(tensor: Tensor | None) -> list[float] | None:
        return None if tensor is None else [round(x, 6) for x in tensor[..., :T].detach().float().tolist()]

    teachers = []
    for k, view in enumerate(pool):
        teacher = {"source": view.source, "items": list(view.item_ids), "weight": round(view.weight, 6)}
        if not view.prompt_ids:
            teacher["skipped"] = True
        if judgement.delta_BKT is not None and judgement.slope_BKT is not None:
            teacher["delta"] = numbers(judgement.delta_BKT[row, k])
            teacher["gate"] = numbers(judgement.slope_BKT[row, k])
        if judgement.support_BK is not None:
            teacher["support"] = round(float(judgement.support_BK[row, k]), 6)
            teacher["stance"] = int(judgement.stance_BK[row, k])
            teacher["polarity"] = int(judgement.polarity_BK[row, k])
        teachers.append(teacher)
    return {
        "step": step,
        "index": rollout.completion.index,
        "problem_id": rollout.problem.id,
        "problem": rollout.problem.text,
        "gold": rollout.problem.gold,
        "completion": rollout.completion.text,
        "tokens": list(tokens),
        "status": str(verdict.status),
        "answer": verdict.answer,
        "outcome": verdict.outcome,
        "mask": [int(m) for m in mask_T.tolist()],
        "advantages": numbers(None if judgement.advantages_BT is None else judgement.advantages_BT[row]),
        "teachers": teachers,
    }
