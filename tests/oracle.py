"""The objectives once more: plain float64 NumPy, loops over rollouts and teachers, written from the equations."""

from __future__ import annotations

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def gate(gap: np.ndarray, tau: float) -> np.ndarray:
    return np.log(2.0) - np.log1p(np.exp(-(gap**2) / (2 * tau)))


def polarity(support: float, outcome: float, confidence: float) -> float:
    return float(outcome * np.sign(support)) if abs(support) > confidence else 0.0


def sgsd_oracle(
    student: np.ndarray,
    teacher: np.ndarray,
    mask: np.ndarray,
    weights: np.ndarray,
    outcome: np.ndarray,
    *,
    tau: float,
    clip: float,
    confidence: float,
) -> tuple[float, np.ndarray]:
    """Loss and its gradient by the student's log-probs."""
    B, K, _ = teacher.shape
    loss, grad = 0.0, np.zeros_like(student)
    for b in range(B):
        kept = np.flatnonzero(mask[b])
        if kept.size == 0:
            continue
        for k in range(K):
            gap = teacher[b, k, kept] - student[b, kept]
            rho = polarity(np.clip(gap, -clip, clip).mean(), outcome[b], confidence)
            loss += weights[b, k] * rho * gate(gap, tau).mean() / B
            slope = 1 / (1 + np.exp(gap**2 / (2 * tau)))
            grad[b, kept] -= weights[b, k] * rho * slope * gap / tau / (B * kept.size)
    return loss, grad


def sgsd_topk_oracle(
    student: np.ndarray,
    teacher: np.ndarray,
    tokens: np.ndarray,
    mask: np.ndarray,
    weights: np.ndarray,
    outcome: np.ndarray,
    *,
    top_k: int,
    tau: float,
    clip: float,
    confidence: float,
) -> float:
    B, K, _, _ = teacher.shape
    loss = 0.0
    for b in range(B):
        kept = np.flatnonzero(mask[b])
        for k in range(K):
            gaps, divergences = [], []
            for t in kept:
                best = np.argsort(-teacher[b, k, t], kind="stable")[:top_k].tolist()
                support = best if tokens[b, t] in best else [*best, int(tokens[b, t])]
                log_t, log_s = log_softmax(teacher[b, k, t, support]), log_softmax(student[b, t, support])
                place = support.index(int(tokens[b, t]))
                gaps.append(log_t[place] - log_s[place])
                divergences.append((np.exp(log_t) * (log_t - log_s)).sum())
            if gaps:
                rho = polarity(np.clip(gaps, -clip, clip).mean(), outcome[b], confidence)
                loss += weights[b, k] * rho * gate(np.array(divergences), tau).mean() / B
    return loss


def jsd_oracle(
    student: np.ndarray,
    teacher: np.ndarray,
    mask: np.ndarray,
    *,
    beta: float,
    temperature: float,
    top_k: int | None,
    clip: float | None,
    clip_level: str,
) -> float:
    values = []
    for s, t in zip(student[mask] / temperature, teacher[mask] / temperature):
        kept = np.argsort(-t, kind="stable")[:top_k] if top_k else np.arange(len(t))
        p_s, p_t = np.exp(log_softmax(s[kept])), np.exp(log_softmax(t[kept]))
        middle = (1 - beta) * p_s + beta * p_t
        if beta == 0:
            terms = p_t * np.log(p_t / p_s)
        elif beta == 1:
            terms = p_s * np.log(p_s / p_t)
        else:
            terms = beta * p_t * np.log(p_t / middle) + (1 - beta) * p_s * np.log(p_s / middle)
        if clip is not None and clip_level == "vocab":
            terms = np.minimum(terms, clip)
        values.append(terms.sum() if clip is None or clip_level == "vocab" else min(terms.sum(), clip))
    return float(np.mean(values))
