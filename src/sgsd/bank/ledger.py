"""What each item of the bank has been worth so far: a ledger of every teacher that judged a rollout.

The score of an item as of late is its `evidence`,

    e_j = S_j / (N_j + 5),   S_j = Σ γ^age · outcome · support · balance(outcome),   N_j = Σ γ^age,   γ = 0.98 a use,

with balance(o) = 0.5 / (share of o among the step's known outcomes). Why balanced: on a policy's own tokens a teacher
that knows nothing still reads as bias + noise, and the bias is not zero (its expectation is −KL). Successes add +bias
to the sum and failures −bias, so unbalanced the sum comes to bias · (2 · success rate − 1), which says nothing about
the item. With balance both outcomes of a step weigh the same in total and the constant cancels; a teacher of support
bias + s · outcome has S/N = s at any success rate. It cancels in so far as an item meets successes as often as its
batch does: an item of easy problems only keeps a part of the bias, and there `contrast`, the mean support on its own
successes less that on its own failures, tells more. `standing` is that contrast over the whole run, shrunk while little
is known; trust, re-ranking, pair weights and pruning go by it.

A step whose known outcomes are all alike has nothing to balance against: what it would add is the bias and nothing
else, so it counts in the tallies, adds no evidence and is no use that ages what was known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from sgsd.bank.beta import Posterior
from sgsd.bank.item_stats import (
    MEND,
    ItemStats,
    TeacherObservation,
    account_of,
    account_record,
    class_balance,
    members,
    real_of,
)
from sgsd.bank.retrieval.base import Hit, ItemT, softmax
from sgsd.bank.text import quoted
from sgsd.types import SkillPair, UserError

FORMAT = 1
SETTINGS = ("decay", "prior_uses", "trust_scale")
KeyT = TypeVar("KeyT", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the ledger's table; `ids` names the item, or the skill and the mistake of a pair."""

    ids: tuple[str, ...]
    retrieved: int
    validated: int
    reversed: int
    neutral: int
    support_on_success: float | None
    support_on_failure: float | None
    contrast: float | None
    evidence: float
    trust: float
    posterior_mean: float
    posterior_low: float
    posterior_high: float


@dataclass(frozen=True)
class Ledger:
    """The accounts of all items and pairs that were ever shown. A value: `observe` gives back the next ledger.

    Args:
        decay: what a use leaves of the weight of the uses before it.
        prior_uses: uses without support that every item starts with, so that a first lucky one makes no expert.
        trust_scale: the standing, in nats a token, at which trust is tanh 1.
    """

    decay: float = 0.98
    prior_uses: float = 5.0
    trust_scale: float = 0.05
    items: Mapping[str, ItemStats] = field(default_factory=dict, hash=False)
    pairs: Mapping[tuple[str, str], ItemStats] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not (0.0 < self.decay <= 1.0 and 0.0 < self.prior_uses < math.inf and 0.0 < self.trust_scale < math.inf):
            raise UserError(
                f"the ledger's decay is {self.decay}, its prior {self.prior_uses} uses and its scale of trust"
                f" {self.trust_scale}; give a decay in (0, 1] and the others positive"
            )

    def observe(self, sightings: Iterable[TeacherObservation]) -> Ledger:
        """The ledger after one step: all its sightings, of all processes, together and in any order."""
        step = list(sightings)
        by_item = _grouped((item, s) for s in step for item in s.items)
        by_pair = _grouped(((s.items[0], s.items[1]), s) for s in step if len(s.items) == 2)
        balance = class_balance(step)
        return replace(
            self,
            items=_entered(self.items, by_item, balance, self.decay),
            pairs=_entered(self.pairs, by_pair, balance, self.decay),
        )

    def stats(self, item_id: str) -> ItemStats:
        """The item's account, an empty one where it was never shown."""
        return self.items.get(item_id, ItemStats())

    def evidence(self, *ids: str) -> float:
        """e = S / (N + prior), in nats a token; of several items the sums are pooled: Σ S / (Σ N + prior)."""
        return self._score([self.stats(item_id) for item_id in ids])

    def pair_evidence(self, skill_id: str, mistake_id: str) -> float:
        """The evidence of these two shown together; 0 where they never were."""
        return self._score([self.pairs.get((skill_id, mistake_id), ItemStats())])

    def standing(self, *ids: str) -> float:
        """c · n / (n + prior), in nats a token: the contrast over the whole run, shrunk while little is known.

        c is half the difference of the mean supports on successes and on failures, all sightings of `ids` together, n
        the smaller of the two counts; 0 until there are both. Unlike evidence it forgets nothing: on the lab a policy
        that has learned heeds no context any more, and the last fifty uses of an item say nothing of it (docs/LOG.md).
        """
        return self._standing([self.stats(name) for name in ids])

    def trust(self, *ids: str) -> float:
        """q = tanh(standing / scale) in (−1, 1): of an item, or of a teacher by the ids of its skill and mistake."""
        return math.tanh(self.standing(*ids) / self.trust_scale)

    def posterior(self, item_id: str) -> Posterior:
        """Of "validated, given that it was judged": Beta(1 + validated, 1 + reversed), undecayed, neutral left out.

        It describes what happened and not what the item is worth: the polarity bias is in it, and rollouts of one
        problem are taken for independent, so the interval is rather too narrow. See `balanced_posterior`.
        """
        return _posterior(self.stats(item_id))

    def balanced_posterior(self, item_id: str) -> Posterior:
        """The same with both outcomes weighing alike, so that a teacher that always suppresses comes out at ½.

        p = ½ (share validated on successes + on failures), worth n = 4 n₊ n₋ / (n₊ + n₋) judgements, the size at which
        one proportion is as uncertain as the mean of the two; Beta(1 + n p, 1 + n (1 − p)). Flat until there are both.
        """
        won, lost = self.stats(item_id).success, self.stats(item_id).failure
        if not won.judged or not lost.judged:
            return Posterior(1.0, 1.0)
        share = (won.validated / won.judged + lost.validated / lost.judged) / 2.0
        size = 4.0 * won.judged * lost.judged / (won.judged + lost.judged)
        return Posterior(1.0 + size * share, 1.0 + size * (1.0 - share))

    def inherit(self, heir: str, parents: Sequence[str]) -> Ledger:
        """The ledger in which an item made of others starts from their evidence; nothing calls it unasked.

        The heir gets the mean of its parents' decayed sums S and N, those never shown included as zeros, so that it is
        no surer than a parent is on average. Counts, supports and posteriors are its own and begin empty. An heir with
        evidence of its own keeps that.
        """
        others = [self.stats(parent) for parent in dict.fromkeys(parents) if parent != heir]
        own = self.stats(heir)
        if own.uses or not others:
            return self
        evidence = math.fsum(parent.evidence for parent in others) / len(others)
        uses = math.fsum(parent.uses for parent in others) / len(others)
        return replace(self, items={**self.items, heir: replace(own, evidence=evidence, uses=uses)})

    def rows(self) -> list[Row]:
        """The items' table, the best evidence first, ties by id."""
        return self._table([((item_id,), stats) for item_id, stats in self.items.items()])

    def pair_rows(self) -> list[Row]:
        """The pairs' table, the best evidence first, ties by ids."""
        return self._table(self.pairs.items())

    def to_json(self) -> dict[str, Any]:
        """A JSON object that gives back this ledger to the last bit; equal ledgers have equal texts."""
        items = {item_id: account_record(self.items[item_id]) for item_id in sorted(self.items)}
        pairs = [{"skill": s, "mistake": m} | account_record(self.pairs[s, m]) for s, m in sorted(self.pairs)]
        settings = {name: getattr(self, name) for name in SETTINGS}
        return {"format": FORMAT, **settings, "items": items, "pairs": pairs}

    @staticmethod
    def from_json(record: Any, source: str = "the ledger") -> Ledger:
        """The ledger a parsed JSON object holds.

        Raises:
            UserError: it holds something else; `source`, the item and the field are named.
        """
        if isinstance(record, dict) and (written := record.get("format")) != FORMAT:
            raise UserError(f"{source}: field 'format' is {written!r}, this version reads {FORMAT}; {MEND}")
        top = members(record, ("format", *SETTINGS, "items", "pairs"), f"{source}: ")
        settings = {name: real_of(top[name], f"{source}: field {name!r}") for name in SETTINGS}
        if not isinstance(top["items"], dict) or not isinstance(top["pairs"], list):
            raise UserError(f"{source}: field 'items' must be an object and field 'pairs' a list; {MEND}")
        items = {name: account_of(entry, f"{source}: item {quoted(name)}, ") for name, entry in top["items"].items()}
        return Ledger(**settings, items=items, pairs=_pairs_of(top["pairs"], source))

    def _score(self, accounts: Sequence[ItemStats]) -> float:
        return math.fsum(a.evidence for a in accounts) / (math.fsum(a.uses for a in accounts) + self.prior_uses)

    def _standing(self, accounts: Sequence[ItemStats]) -> float:
        won, lost = [stats.success for stats in accounts], [stats.failure for stats in accounts]
        uses = [sum(tally.total for tally in side) for side in (won, lost)]
        if not all(uses):
            return 0.0
        on_success, on_failure = (math.fsum(t.support for t in side) / n for side, n in zip((won, lost), uses))
        return (on_success - on_failure) / 2 * min(uses) / (min(uses) + self.prior_uses)

    def _table(self, accounts: Iterable[tuple[tuple[str, ...], ItemStats]]) -> list[Row]:
        rows = [self._row(ids, stats) for ids, stats in accounts]
        return sorted(rows, key=lambda row: (-row.evidence, row.ids))

    def _row(self, ids: tuple[str, ...], stats: ItemStats) -> Row:
        won, lost, posterior = stats.success, stats.failure, _posterior(stats)
        evidence = self._score([stats])
        return Row(
            ids=ids,
            retrieved=stats.retrieved,
            validated=won.validated + lost.validated,
            reversed=won.reversed + lost.reversed,
            neutral=won.neutral + lost.neutral,
            support_on_success=won.mean_support,
            support_on_failure=lost.mean_support,
            contrast=stats.contrast,
            evidence=evidence,
            trust=math.tanh(self._standing([stats]) / self.trust_scale),
            posterior_mean=posterior.mean,
            posterior_low=posterior.low,
            posterior_high=posterior.high,
        )


def rerank(hits: Sequence[Hit[ItemT]], ledger: Ledger, weight: float = 0.1) -> list[Hit[ItemT]]:
    """The hits in the order of score + weight · trust, ties as they stood; what is unknown keeps its score's place.

    Each hit keeps its retrieval score: evidence decides who is chosen, `pair_weights` what the chosen weigh. Give more
    hits than you will keep. The default moves an item past others that match at most 0.2 better (scores end at 1).
    """
    return sorted(hits, key=lambda hit: -(hit.score + weight * ledger.trust(hit.item.id)))


def pair_weights(
    pairs: Sequence[SkillPair], ledger: Ledger, strength: float = 1.0, temperature: float = 1.0
) -> tuple[float, ...]:
    """Weights that sum to 1: softmax(score / temperature + strength · trust), trust of both items pooled.

    With strength 0 they are the weights of retrieval. Trust lies in (−1, 1), so by the default no pair gains or loses
    more than a factor e.
    """
    if not temperature > 0.0:
        raise UserError(f"the temperature of the pair weights is {temperature}; give a positive number")
    return softmax([pair.score / temperature + strength * ledger.trust(*pair.item_ids) for pair in pairs])


def quarantined(ledger: Ledger, ids: Iterable[str], *, judgements: int = 20, bound: float = 0.5) -> list[str]:
    """Those of `ids` that keep being reversed, in their order: give it the dynamic items, it judges any.

    An item is one when it was judged (validated or reversed) at least `judgements` times and the upper end of the
    95 % interval of its `balanced_posterior` lies below `bound`. Not of the plain one: where nine in ten rollouts
    succeed, the polarity bias reverses nine in ten judgements of an item that does nothing.
    """
    known = ((item_id, ledger.stats(item_id)) for item_id in ids)
    judged = [item_id for item_id, a in known if a.success.judged + a.failure.judged >= judgements]
    return [item_id for item_id in judged if ledger.balanced_posterior(item_id).high < bound]


def worth(ledger: Ledger) -> Callable[[str], float]:
    """What an item is worth when a bank must be pruned: its standing, 0 for one that was never shown."""
    return lambda item_id: ledger.standing(item_id)


def _grouped(entries: Iterable[tuple[KeyT, TeacherObservation]]) -> dict[KeyT, list[TeacherObservation]]:
    groups: dict[KeyT, list[TeacherObservation]] = {}
    for key, sighting in entries:
        groups.setdefault(key, []).append(sighting)
    return groups


def _entered(
    accounts: Mapping[KeyT, ItemStats],
    groups: Mapping[KeyT, list[TeacherObservation]],
    balance: Mapping[int, float],
    decay: float,
) -> dict[KeyT, ItemStats]:
    new = {key: accounts.get(key, ItemStats()).plus(seen, balance, decay) for key, seen in groups.items()}
    return {**accounts, **new}


def _posterior(stats: ItemStats) -> Posterior:
    won, lost = stats.success, stats.failure
    return Posterior(1.0 + won.validated + lost.validated, 1.0 + won.reversed + lost.reversed)


def _pairs_of(entries: list[Any], source: str) -> dict[tuple[str, str], ItemStats]:
    pairs: dict[tuple[str, str], ItemStats] = {}
    for position, entry in enumerate(entries):
        where = f"{source}: pairs[{position}], "
        if not isinstance(entry, dict) or not {"skill", "mistake"} <= entry.keys():
            raise UserError(f"{where}must be an object with the fields 'skill' and 'mistake'; {MEND}")
        ids = entry["skill"], entry["mistake"]
        if not all(isinstance(item_id, str) for item_id in ids):
            raise UserError(f"{where}fields 'skill' and 'mistake' must be strings; {MEND}")
        if ids in pairs:
            raise UserError(f"{where}repeats the pair {' + '.join(map(quoted, ids))}; {MEND}")
        rest = {name: value for name, value in entry.items() if name not in ("skill", "mistake")}
        pairs[ids] = account_of(rest, f"{source}: pair {' + '.join(map(quoted, ids))}, ")
    return pairs
