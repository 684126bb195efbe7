"""The run in a sentence, and whether the sentence can be believed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sgsd.report.curves import finite_mean
from sgsd.report.labels import count, duration, percent, with_interval
from sgsd.report.values import Estimate, Evaluation, Fired, Run

HELD_OUT = "held-out"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure at two moments of a run, and what to call the moments."""

    measure: str
    before: Estimate
    after: Estimate
    before_name: str = "before"
    after_name: str = "after"

    @property
    def overlaps(self) -> bool | None:
        """Do the two intervals share a value? None where either is unknown."""
        if not (self.before.has_interval and self.after.has_interval):
            return None
        return max(self.before.low, self.after.low) <= min(self.before.high, self.after.high)


def main_split(evaluations: Sequence[Evaluation]) -> str:
    """The split that the headline speaks of: "held-out", or else the first that was evaluated."""
    splits = [evaluation.split for evaluation in evaluations]
    return HELD_OUT if HELD_OUT in splits or not splits else splits[0]


def speaks_first(measure: str) -> tuple[bool, str]:
    """Sorting key: avg@k before greedy, for an average of samples sees what a single best guess hides."""
    return measure == "greedy", measure


def compare(run: Run) -> tuple[Comparison, ...]:
    """Before and after by the summary; without one, the first and the latest evaluation of the main split."""
    if run.summary and run.summary.before and run.summary.after:
        return _pairs(run.summary.before, run.summary.after, "before", "after")
    own = [e for e in run.evaluations if e.split == main_split(run.evaluations)]
    if not own or own[0].step == own[-1].step:
        return ()
    first, last = own[0], own[-1]
    return _pairs(first.measures, last.measures, f"step {first.step}", f"step {last.step}")


def _pairs(
    before: Mapping[str, Estimate], after: Mapping[str, Estimate], before_name: str, after_name: str
) -> tuple[Comparison, ...]:
    both = sorted(before.keys() & after.keys(), key=speaks_first)
    return tuple(Comparison(name, before[name], after[name], before_name, after_name) for name in both)


def state(run: Run) -> str:
    """The state of a run: "60 steps, finished", "not finished: step 12 of 60", or which guard stopped it.

    The files of a run that trains and of one that was interrupted look alike.
    """
    if run.summary:
        return f"{count(run.step, 'step')}, finished"
    place = f"step {run.step:,}" + (f" of {run.planned_steps:,}" if run.planned_steps else "")
    guard = stopper(run)
    return f"stopped by guard {guard.guard} at {place}" if guard else f"not finished: {place}"


def headline(run: Run) -> str:
    """One sentence for a newcomer, with every number that it rests on."""
    comparisons = compare(run)
    start = f"{state(run).capitalize()}. " if run.summary is None else ""
    if comparisons:
        return start + _change(run, comparisons[0])
    if run.summary is None:
        return start + _training_so_far(run)
    if run.step == 0 and run.summary.before:
        return _alone(run, run.summary.before)
    return (
        f"The run took {_effort(run)}. It was not evaluated before and after training, "
        "so it cannot be said whether it helped."
    )


def _change(run: Run, comparison: Comparison) -> str:
    before, after = comparison.before, comparison.after
    verb = "went"
    if comparison.overlaps is False:
        verb = "rose" if after.accuracy > before.accuracy else "fell"
    of = problems(run)
    numbers = f"from {with_interval(before)} to {with_interval(after)}"
    if run.summary is None:
        return f"So far, {comparison.measure}{of} {verb} {numbers}, by {comparison.after_name}."
    return f"{comparison.measure}{of} {verb} {numbers} in {_effort(run)}."


def _alone(run: Run, measures: Mapping[str, Estimate]) -> str:
    """The measurement of a model that was not trained."""
    first, *others = sorted(measures, key=speaks_first)
    also = "".join(f", {other} {with_interval(measures[other])}" for other in others)
    return f"{first}{problems(run)} is {with_interval(measures[first])}{also}. Nothing was trained."


def spoken(run: Run) -> str:
    """The measure that the headline speaks of; empty where there is none."""
    if comparisons := compare(run):
        return comparisons[0].measure
    own = [e.measures for e in run.evaluations if e.split == main_split(run.evaluations) and e.measures]
    measures = run.summary.before if run.summary else next(iter(own), {})
    return min(measures, key=speaks_first, default="")


def problems(run: Run) -> str:
    """ " on 512 held-out problems", as far as it is known, and what of the bank their prompts show."""
    split = main_split(run.evaluations)
    own = [e for e in run.evaluations if e.split == split and e.problems > 0]
    if not own:
        return ""
    pairs = f", with up to {count(run.skills, 'pair')} of the bank in each prompt," if run.skills else ""
    return f" on {own[-1].problems:,} {split} problem{'' if own[-1].problems == 1 else 's'}{pairs}"


def _effort(run: Run) -> str:
    seconds = run.summary.train_seconds if run.summary else math.nan
    return count(run.step, "step") + (f", {duration(seconds)} of training" if math.isfinite(seconds) else "")


def _training_so_far(run: Run) -> str:
    """The first evaluation and the accuracy of the latest rollouts, where there is no second evaluation."""
    said = []
    own = [e for e in run.evaluations if e.split == main_split(run.evaluations) and e.measures]
    if own:
        measure = min(own[0].measures, key=speaks_first)
        said.append(f"{measure}{problems(run)} was {with_interval(own[0].measures[measure])} at step {own[0].step}.")
    recent = [row.values["accuracy"] for row in run.metrics[-10:] if "accuracy" in row.values]
    mean = finite_mean(recent)
    if math.isfinite(mean):
        since = f"In the last {count(len(recent), 'step')}" if len(recent) > 1 else "In the last step"
        said.append(f"{since}, {percent(mean)} of the training rollouts were correct.")
    return " ".join(said) or "Nothing has been measured yet."


def caution(run: Run) -> str:
    """The conclusion that the intervals allow; empty when there is nothing to compare."""
    comparisons = compare(run)
    if not comparisons:
        return ""
    first = comparisons[0]
    if first.overlaps is None:
        return f"No interval was recorded for {first.measure}, so the change may be chance."
    if first.overlaps:
        return f"The two intervals of {first.measure} overlap: this run alone does not show a change."
    split = [c.measure for c in comparisons[1:] if c.overlaps]
    rest = f" Those of {' and '.join(split)} do overlap." if split else ""
    return (
        f"The two intervals of {first.measure} do not overlap.{rest} They speak of these problems and samples only: "
        "another seed can land elsewhere."
    )


# ── The guards ─────────────────────────────────────────────────────────────────────────────────────────────────────


def stopper(run: Run) -> Fired | None:
    """The guard that ended an unfinished run where it now stands."""
    return next((fired for fired in run.fired if ended(run, fired) and fired.step == run.step), None)


def ended(run: Run, fired: Fired) -> bool:
    """True where it ended a session; at the last step there is nothing left to stop."""
    return fired.stops and fired.step != run.planned_steps


def guards_in_words(run: Run) -> str:
    """The number of guards that watched, so that silence is not taken for health; empty where the config has none."""
    if not run.guards:
        return ""
    on = [guard for guard in run.guards if guard.on]
    short = sum(guard.window > run.step for guard in on)
    said = f"{'No guard' if not run.fired else 'A guard'} fired: {len(on)} watched, {len(run.guards) - len(on)} off"
    waited = f"; {short} had fewer steps than {'its' if short == 1 else 'their'} window" if short else ""
    return f"{said}{waited}. A guard whose figure the method does not log says nothing."
