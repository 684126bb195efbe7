"""Separation of right answers from wrong ones by support: under the bank's teachers, and under the controls.

Pure: scored rollouts in, figures with intervals and a verdict out. A bank is looked at in two ways.

whole         the AUC of all its teachers' supports, each weighing what it weighs in its pool.
item by item  a bank of which half misleads cancels out as a whole, although its teachers would be reversed and could
              teach. So every teacher is read as its items' ledger says: a rollout's score is Σ_k w_k q_k (a_k − m_k),
              with trust q and m the middle of the items' mean supports on successes and on failures, both learnt on
              the other half of the problems.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal, get_args

from sgsd.bank import Ledger, TeacherObservation
from sgsd.contexts.controls import CONTROLS
from sgsd.evaluation.stats import Interval, Scored, auc, auc_difference
from sgsd.methods.stances import StanceKind

Source = Literal["bank", "irrelevant", "shuffled", "null"]
SOURCES: tuple[Source, ...] = get_args(Source)
STANCES: tuple[StanceKind, ...] = get_args(StanceKind)

TIES = 5  # decimals; supports that differ by rounding alone are equal
MARGIN = 0.05  # a gain in AUC below which a bank is said to teach nothing
FEWEST = 8  # problems with a right rollout, and with a wrong one, from which an AUC is given


@dataclass(frozen=True, slots=True)
class TeacherSupport:
    """One teacher on one rollout: the items it was shown, its weight in the pool, its support by each stance."""

    items: tuple[str, ...]
    weight: float
    support: Mapping[StanceKind, float]


@dataclass(frozen=True, slots=True)
class ProbedRollout:
    """One rollout, graded, and read by the teachers of every pool; a pool that was left out is empty."""

    index: int
    problem_id: str
    outcome: int
    pools: Mapping[Source, tuple[TeacherSupport, ...]]

    @property
    def usable(self) -> bool:
        """Paired differences need a known outcome and all the pools."""
        return self.outcome != 0 and all(self.pools[source] for source in SOURCES)


@dataclass(frozen=True, slots=True)
class Separation:
    """The AUC of one source, and by how much the bank's is greater; None for the bank itself."""

    auc: Interval
    gain: Interval | None = None


@dataclass(frozen=True)
class Findings:
    """Figures of a probe; `separations` and `by_item` are empty where the AUC is undefined or nearly so."""

    rollouts: int
    unknown: int  # of them, those of which nothing is known
    left_out: int  # of the others, those that lack a pool
    right: int
    wrong: int
    problems: int
    rarer: int  # problems with a right rollout, or with a wrong one: the fewer
    separations: Mapping[StanceKind, Mapping[Source, Separation]]
    by_item: Mapping[StanceKind, Separation]  # its gain is over the irrelevant control, read in the same way

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ProbeVerdict:
    """Answer to whether the bank can teach the model anything; `needed` rollouts would roughly be enough to decide."""

    answer: Literal["yes", "no", "cannot tell"]
    sentence: str
    needed: int | None = None


RULE = (
    "yes, if the 95 % intervals of an AUC and of its gain over off-topic text lie above 0.5 and above 0, for the bank"
    f" as a whole or item by item; no, if both gains' intervals end below {MARGIN}; otherwise it cannot tell"
)


def compute_findings(
    observations: Sequence[ProbedRollout], seed: int, stances: Sequence[StanceKind] = STANCES
) -> Findings:
    """Compute all figures; equal seeds give equal intervals."""
    known = [o for o in observations if o.outcome]
    used = [o for o in known if o.usable]
    right = {o.problem_id for o in used if o.outcome > 0}
    wrong = {o.problem_id for o in used if o.outcome < 0}
    enough = min(len(right), len(wrong)) >= FEWEST
    return Findings(
        rollouts=len(observations),
        unknown=len(observations) - len(known),
        left_out=len(known) - len(used),
        right=sum(o.outcome > 0 for o in used),
        wrong=sum(o.outcome < 0 for o in used),
        problems=len(right | wrong),
        rarer=min(len(right), len(wrong)),
        separations={stance: separations(used, stance, seed) for stance in stances} if enough else {},
        by_item={stance: item_by_item(used, stance, seed) for stance in stances} if enough else {},
    )


def separations(used: Sequence[ProbedRollout], stance: StanceKind, seed: int) -> dict[Source, Separation]:
    """The bank as a whole, and every control."""
    scored = {source: _teachers(used, source, stance) for source in SOURCES}
    found: dict[Source, Separation] = {"bank": Separation(auc(scored["bank"], seed=seed))}
    for control in CONTROLS:
        gain = auc_difference(scored["bank"], scored[control], seed=seed)
        found[control] = Separation(auc(scored[control], seed=seed), gain)
    return found


def item_by_item(used: Sequence[ProbedRollout], stance: StanceKind, seed: int) -> Separation:
    """The bank as its items' ledger reads it, and its gain over the irrelevant control."""
    bank, control = _by_ledger(used, "bank", stance, seed), _by_ledger(used, "irrelevant", stance, seed)
    return Separation(auc(bank, seed=seed), auc_difference(bank, control, seed=seed))


def teacher_observations(
    observations: Sequence[ProbedRollout],
    source: Source,
    stance: StanceKind,
    confidence: float,
    named: Callable[[ProbedRollout, TeacherSupport], tuple[str, ...]] = lambda observation, reading: reading.items,
) -> list[TeacherObservation]:
    """Return a source's teachers as a ledger's observations; `named` says under which ids."""
    return [
        TeacherObservation(named(o, r), o.outcome, a, o.outcome * ((a > confidence) - (a < -confidence)))
        for o in observations
        for r in o.pools[source]
        for a in (r.support[stance],)
    ]


def decide(findings: Findings, stance: StanceKind) -> ProbeVerdict:
    """The closing sentence, by `RULE`."""
    if not findings.separations:
        most = "wrong" if findings.right < findings.wrong else "right"
        return ProbeVerdict(
            "cannot tell",
            f"Cannot tell: nearly all rollouts are {most} ({findings.right} right, {findings.wrong} wrong, the rarer on"
            f" {findings.rarer} problems), so that an AUC is undefined or nearly so; it takes both outcomes on {FEWEST}"
            f" problems each. Take {'easier' if most == 'wrong' else 'harder'} problems, or more rollouts.",
        )
    irrelevant = findings.separations[stance]["irrelevant"]
    assert irrelevant.gain is not None
    whole = Separation(findings.separations[stance]["bank"].auc, irrelevant.gain)
    ways = {"as a whole": whole, "item by item": findings.by_item[stance]}
    for way, found in ways.items():
        if _above(found.auc, 0.5) and _above(found.gain, 0.0):
            return ProbeVerdict("yes", f"Yes: {way}, {_in_words(found)}: this bank can teach this model.")
    both = "; ".join(f"{way}, {_in_words(found)}" for way, found in ways.items())
    if all(found.gain is not None and found.gain.high < MARGIN for found in ways.values()):
        return ProbeVerdict(
            "no", f"No: {both}: this bank tells this model hardly more than off-topic text of its length."
        )
    needed = rollouts_needed(findings.right + findings.wrong, ways.values())
    more = "More rollouts would hardly tell" if needed is None else f"About {needed:,} rollouts would"
    return ProbeVerdict("cannot tell", f"Cannot tell: {both}. {more}, if the figures stay as they are (rough).", needed)


def rollouts_needed(rollouts: int, ways: Iterable[Separation]) -> int | None:
    """Estimate how many rollouts would decide if figures stayed and half-widths shrank with √n; None if none do.

    A half-width h must come below the distance d that a figure has to its bound: n · (h / d)². For "yes" that holds of
    one way's AUC and gain, for "no" of both gains; the smaller number is taken, in two digits.
    """
    ways = list(ways)
    gains = [found.gain for found in ways if found.gain is not None]
    yes = [max(_factor(f.auc, f.auc.value - 0.5), _factor(f.gain, f.gain.value)) for f in ways if f.gain is not None]
    no = max(_factor(gain, MARGIN - gain.value) for gain in gains)
    wanted = max(1.0, min([*yes, no])) * rollouts
    if math.isinf(wanted):
        return None
    unit = 10 ** max(0, math.floor(math.log10(wanted)) - 1)
    return math.ceil(round(wanted / unit, 6)) * unit


def _factor(found: Interval, distance: float) -> float:
    return ((found.high - found.low) / 2 / distance) ** 2 if distance > 0 else math.inf


def _above(interval: Interval | None, bound: float) -> bool:
    return interval is not None and interval.low > bound


def _in_words(found: Separation) -> str:
    assert found.gain is not None
    a, g = found.auc, found.gain
    gain = f"{g.value:+.3f} ({g.low:+.3f} to {g.high:+.3f}) over off-topic text"
    return f"AUC {a.value:.3f} ({a.low:.3f} to {a.high:.3f}), {gain}"


def _teachers(used: Sequence[ProbedRollout], source: Source, stance: StanceKind) -> Scored:
    """Every teacher on every rollout, clusters by problem."""
    read = [(o, r) for o in used for r in o.pools[source] if r.weight > 0]
    return Scored(
        scores=[round(r.support[stance], TIES) for _, r in read],
        right=[o.outcome > 0 for o, _ in read],
        clusters=[o.problem_id for o, _ in read],
        weights=[r.weight for _, r in read],
    )


def _by_ledger(used: Sequence[ProbedRollout], source: Source, stance: StanceKind, seed: int) -> Scored:
    """Every rollout, its teachers read by the ledger of the other half of the problems."""
    problems = sorted({o.problem_id for o in used})
    random.Random(f"halves/{seed}").shuffle(problems)
    first = set(problems[: len(problems) // 2])
    halves = [[o for o in used if (o.problem_id in first) == side] for side in (True, False)]
    learnt = [Ledger().observe(teacher_observations(half, source, stance, 0.0)) for half in halves]
    scored = [(o, _score(o.pools[source], stance, ledger)) for half, ledger in zip(halves, learnt[::-1]) for o in half]
    return Scored([s for _, s in scored], [o.outcome > 0 for o, _ in scored], [o.problem_id for o, _ in scored])


def _score(pool: Sequence[TeacherSupport], stance: StanceKind, ledger: Ledger) -> float:
    """Σ_k w_k q_k (a_k − m_k); a teacher of whose items nothing is known on one of the sides says nothing."""
    total = 0.0
    for reading in pool:
        accounts = [ledger.stats(item) for item in reading.items]
        middles = [
            (won + lost) / 2
            for stats in accounts
            if (won := stats.success.mean_support) is not None and (lost := stats.failure.mean_support) is not None
        ]
        if middles:
            total += reading.weight * ledger.trust(*reading.items) * (reading.support[stance] - fmean(middles))
    return total
