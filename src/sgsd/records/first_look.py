"""A step's outcomes in words: for whoever wants to know early that a run is useless."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sgsd.types import Rollout, Status, Verdict

EXAMPLES = 3
EXCERPT = 70  # characters of a completion and of a reference

MEANINGS = {
    "none": "No rollout is right: the verifier does not read what the model writes (look below for a right answer that"
    " counts as wrong), the prompt does not ask for the form that it reads, or the problems are too hard.",
    "all": "Every graded rollout is right: the problems are too easy, or the verifier accepts anything. The verdicts"
    " alone teach nothing here.",
    "unknown": "Most rollouts have no verdict, and a method that learns from outcomes learns nothing from them: look at"
    " the references and at the verifier.",
    "some": "Both outcomes are there. Whether the verdicts are the right ones, the examples can tell.",
}


def first_look(rollouts: Sequence[Rollout], verdicts: Sequence[Verdict]) -> list[str]:
    """How many of the first rollouts are right, what that does and does not mean, and some of them.

    There may be more verdicts than rollouts: the other processes', behind those of these rollouts.
    """
    count, found = len(verdicts), Counter(verdict.outcome for verdict in verdicts)
    ungraded = f", {found[0]} without a verdict" if found[0] else ""
    kind = "unknown" if 2 * found[0] > count else "none" if not found[1] else "some" if found[-1] else "all"
    rewards = [verdict.reward for verdict in verdicts if verdict.reward is not None]
    spread = f", rewards from {min(rewards):.3g} to {max(rewards):.3g}" if rewards else ""
    head = f"First rollouts: {found[1]} of {count} right{ungraded}{spread}. {MEANINGS[kind]}"
    return [head, *examples(rollouts, verdicts[: len(rollouts)])]


def examples(rollouts: Sequence[Rollout], verdicts: Sequence[Verdict]) -> list[str]:
    """A few rollouts with their verdicts, a line each: of different outcomes and problems where there are such."""
    pairs = list(zip(rollouts, verdicts, strict=True))
    seen: Counter[tuple[Status, str]] = Counter()
    ranked = []
    for place, (rollout, verdict) in enumerate(pairs):
        kind = (verdict.status, rollout.problem.id)
        ranked.append((seen[kind], place))
        seen[kind] += 1
    chosen = [pairs[place] for _, place in sorted(ranked)]
    by_status: dict[Status, list[tuple[Rollout, Verdict]]] = {}
    for pair in chosen:
        by_status.setdefault(pair[1].status, []).append(pair)
    turns = [pair for turn in range(EXAMPLES) for found in by_status.values() for pair in found[turn : turn + 1]]
    return [example(*pair) for pair in turns[:EXAMPLES]]


def example(rollout: Rollout, verdict: Verdict) -> str:
    """One rollout on one line: its problem, how its completion ends, the reference, and the verdict."""
    text, gold = rollout.completion.text, str(rollout.problem.gold)
    end = f"…{text[-EXCERPT:]}" if len(text) > EXCERPT else text
    read = f" (read: {verdict.answer[:EXCERPT]!r})" if verdict.answer is not None else ""
    cut = ", cut off by its length" if rollout.completion.finish == "length" else ""
    reward = f", reward {verdict.reward:.2g}" if verdict.reward is not None else ""
    return f"  problem {rollout.problem.id}: {end!r}{cut}; reference {gold[:EXCERPT]!r}: {verdict.status}{reward}{read}"
