"""Every method of the zoo once more: float64 NumPy and loops, from logits, written from the equations and not the code.

A case holds what a step has: logits of the student, of its old self and of every teacher, sampled tokens, outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from oracle import gate, log_softmax, polarity


@dataclass
class Case:
    """B rollouts in groups, K teachers, T tokens, V words."""

    student: np.ndarray  # [B, T, V] logits
    old: np.ndarray  # [B, T] log-probs of the sampled tokens under the policy that sampled
    teachers: np.ndarray  # [B, K, T, V]
    null: np.ndarray  # [B, T] log-probs of the sampled tokens under the null teacher
    tokens: np.ndarray  # [B, T]
    mask: np.ndarray  # [B, T]
    weights: np.ndarray  # [B, K]
    outcome: np.ndarray  # [B] ±1, 0
    group: np.ndarray  # [B]
    trust: np.ndarray  # [B, K]

    def logp(self, b: int, t: int) -> float:
        return float(log_softmax(self.student[b, t])[self.tokens[b, t]])

    def gap(self, b: int, k: int, t: int) -> float:
        return float(log_softmax(self.teachers[b, k, t])[self.tokens[b, t]]) - self.logp(b, t)

    def kept(self, b: int) -> np.ndarray:
        return np.flatnonzero(self.mask[b])

    def entropy(self, b: int, t: int) -> float:
        p = np.exp(log_softmax(self.student[b, t]))
        return float(-(p * np.log(p)).sum())


TokenLoss = Callable[[Case, int, int], float]


def total(case: Case, token: TokenLoss, reduce: str) -> float:
    B = len(case.outcome)
    if reduce == "token":
        return sum(token(case, b, t) for b in range(B) for t in case.kept(b)) / int(case.mask.sum())
    return sum(token(case, b, t) / len(case.kept(b)) for b in range(B) for t in case.kept(b)) / B


# ── The outcome ────────────────────────────────────────────────────────────────────────────────────────────────────


def group_advantage(case: Case, b: int) -> float:
    """(r − mean) / (std + 1e-4) over the known rollouts of the group; 0 for an unknown one."""
    if case.outcome[b] == 0:
        return 0.0
    known = case.outcome[(case.group == case.group[b]) & (case.outcome != 0)]
    deviation = known.std(ddof=1) if len(known) > 1 else 0.0
    return float((case.outcome[b] - known.mean()) / (deviation + 1e-4))


def batch_centred(case: Case, b: int) -> float:
    known = case.outcome[case.outcome != 0]
    return float(case.outcome[b] - known.mean()) if case.outcome[b] else 0.0


def ppo(case: Case, b: int, t: int, advantage: float, low: float = 0.2, high: float = 0.2) -> float:
    ratio = math.exp(case.logp(b, t) - case.old[b, t])
    return -min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


# ── Skills ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def support(case: Case, b: int, k: int, kind: str = "raw", clip: float = 3.0) -> float:
    moved = [case.gap(b, k, t) for t in case.kept(b)]
    if kind == "contrast":
        moved = [case.gap(b, k, t) - (case.null[b, t] - case.logp(b, t)) for t in case.kept(b)]
    return float(np.mean(np.clip(moved, -clip, clip)))


def sgsd(confidence: float = 0.05, kind: str = "raw") -> TokenLoss:
    def token(case: Case, b: int, t: int) -> float:
        found = 0.0
        for k in range(case.teachers.shape[1]):
            rho = polarity(support(case, b, k, kind), case.outcome[b], confidence)
            found += case.weights[b, k] * rho * float(gate(np.array(case.gap(b, k, t)), 1.0))
        return found

    return token


def sgsd_distribution(case: Case, b: int, t: int) -> float:
    found = 0.0
    for k in range(case.teachers.shape[1]):
        rho = polarity(support(case, b, k), case.outcome[b], 0.05)
        found += case.weights[b, k] * rho * float(gate(np.array(divergence(case, b, k, t, beta=0.0)), 1.0))
    return found


def trusted(case: Case, b: int, t: int) -> float:
    """Huber's loss of each gap times the trust in the teacher, and half the outcome (which is ±1) about its mean."""
    found = 0.0
    for k in range(case.teachers.shape[1]):
        size = abs(case.gap(b, k, t))
        huber = size**2 / 2 if size <= 3 else 3 * (size - 1.5)
        found += case.weights[b, k] * max(-1.0, case.trust[b, k]) * huber
    return found + ppo(case, b, t, 0.5 * batch_centred(case, b))


# ── Shaped advantages ──────────────────────────────────────────────────────────────────────────────────────────────


def dasd(case: Case, b: int, t: int) -> float:
    def gap(u: int) -> float:
        return sum(case.weights[b, k] * case.gap(b, k, u) for k in range(case.teachers.shape[1]))

    kept = case.kept(b)
    entropies = np.array([case.entropy(b, u) for u in kept])
    scaled = gap(t) / np.mean([abs(gap(u)) for u in kept])
    spread = np.mean(np.abs(entropies - entropies.mean()))
    if spread < 1e-6:
        return ppo(case, b, t, group_advantage(case, b))
    side = math.tanh((np.quantile(entropies, 0.8) - case.entropy(b, t)) / spread)
    routed = side * scaled / (1 + math.exp(1 - abs(scaled)))
    return ppo(case, b, t, group_advantage(case, b) + 0.02 * routed)


def rlcsd(case: Case, b: int, t: int) -> float:
    said = [log_softmax(case.teachers[b, k, t])[case.tokens[b, t]] for k in range(case.teachers.shape[1])]
    contrast = said[0] - math.log(np.mean(np.exp(said[1:])))
    added, advantage = 0.5 * math.tanh(contrast / 0.02), group_advantage(case, b)
    added = added if abs(added) > 0.02 else 0.0
    if advantage > 0:
        return ppo(case, b, t, max(0.0, advantage + added))
    return ppo(case, b, t, min(0.0, advantage + added) if advantage < 0 else 0.0)


def weighed(case: Case, b: int, t: int, sign: float, bound: float) -> float:
    advantage = group_advantage(case, b)
    gap = sum(case.weights[b, k] * case.gap(b, k, t) for k in range(case.teachers.shape[1]))
    weight = math.exp(sign * np.sign(advantage) * gap)
    return advantage * (0.5 + 0.5 * min(max(weight, 1 - bound), 1 + bound))


def rlsd(case: Case, b: int, t: int) -> float:
    return ppo(case, b, t, weighed(case, b, t, 1.0, 0.2))


def rlrt(case: Case, b: int, t: int) -> float:
    on_success = case.outcome[b] > 0
    return ppo(case, b, t, weighed(case, b, t, -1.0, 1.0) if on_success else group_advantage(case, b))


# ── Whole distributions ────────────────────────────────────────────────────────────────────────────────────────────


def divergence(
    case: Case, b: int, k: int, t: int, *, beta: float, top: int | None = None, tail: bool = False, of: str = "teacher"
) -> float:
    p_s, p_t = (np.exp(log_softmax(logits)) for logits in (case.student[b, t], case.teachers[b, k, t]))
    if top is not None:
        best = np.argsort(-(p_t if of == "teacher" else p_s), kind="stable")[:top]
        p_s, p_t = (np.append(p[best], max(1 - p[best].sum(), 0.0)) if tail else p[best] for p in (p_s, p_t))
        p_s, p_t = p_s / p_s.sum(), p_t / p_t.sum()
    middle = (1 - beta) * p_s + beta * p_t
    if beta == 0:
        return float((p_t * np.log(p_t / p_s)).sum())
    if beta == 1:
        return float((p_s * np.log(p_s / p_t)).sum())
    return float(beta * (p_t * np.log(p_t / middle)).sum() + (1 - beta) * (p_s * np.log(p_s / middle)).sum())


def matched(clip: float | None = None, **how: object) -> TokenLoss:
    def token(case: Case, b: int, t: int) -> float:
        found = 0.0
        for k in range(case.teachers.shape[1]):
            value = divergence(case, b, k, t, **how)  # type: ignore[arg-type]
            found += case.weights[b, k] * (value if clip is None else min(value, clip))
        return found

    return token


def sdpg(case: Case, b: int, t: int) -> float:
    advantage = group_advantage(case, b)
    taught = matched(beta=1.0)(case, b, t) if advantage > 0 else 0.0
    return ppo(case, b, t, advantage) + 1e-3 * taught


#: name → (the token's loss, how tokens are averaged)
ORACLES: dict[str, tuple[TokenLoss, str]] = {
    "sgsd": (sgsd(), "rollout"),
    "sgsd_calibrated": (sgsd(0.01, "contrast"), "rollout"),
    "sgsd_distribution": (sgsd_distribution, "rollout"),
    "trusted": (trusted, "rollout"),
    "grpo": (lambda c, b, t: ppo(c, b, t, group_advantage(c, b)), "rollout"),
    "reinforce": (lambda c, b, t: ppo(c, b, t, batch_centred(c, b)), "rollout"),
    "dasd": (dasd, "rollout"),
    "rlcsd": (rlcsd, "token"),
    "rlsd": (rlsd, "token"),
    "rlrt": (rlrt, "token"),
    "opsd": (matched(0.05, beta=0.0), "token"),
    "sdpo": (matched(beta=0.5, top=4, tail=True, of="student"), "token"),
    "sdft": (matched(beta=0.0), "token"),
    "op2sd": (matched(0.05, beta=0.0), "token"),
    "rcsd": (matched(0.05, beta=0.0, top=4), "token"),
    "critique": (matched(0.05, beta=0.0), "token"),
    "sdpg": (sdpg, "token"),
    "grpo_skill": (lambda c, b, t: ppo(c, b, t, group_advantage(c, b)), "rollout"),
    "opsd_skill": (matched(0.05, beta=0.0), "token"),
}
