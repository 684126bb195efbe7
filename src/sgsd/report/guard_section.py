"""The guards on the page: how many watched, and which one ended the run."""

from __future__ import annotations

from sgsd.report.values import Fired, Run


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
