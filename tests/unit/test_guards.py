"""The guards on synthetic records: each fires on its trouble, once, on nothing healthy, and the same when resumed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs import small_config
from sgsd.config.guards_config import GuardConfig, GuardsConfig
from sgsd.config.loading import parse_config
from sgsd.config.yaml_text import parse_yaml
from sgsd.records.guards import GUARDS
from sgsd.records.monitor import Finding, Monitor
from sgsd.types import UserError

Change = Callable[[int], dict[str, Any]]


def healthy(step: int) -> dict[str, Any]:
    """A run that learns: it becomes right and sure, its teachers fall silent, everything wobbles a little."""
    wobble, done = 0.05 * (-1) ** step, min(1.0, step / 60)
    return {
        "step": step,
        "rollouts": 32,
        "accuracy": 0.45 + 0.4 * done + wobble,
        "ungraded": 0.02,
        "groups_alike": 0.5 + 2 * wobble,
        "entropy": 0.06 - 0.03 * done + 0.1 * wobble,
        "length": 23 + 10 * wobble,
        "truncated": 0.02 + 0.2 * abs(wobble),
        "style_advantage_share": 0.05 + wobble / 2,
        "style_token_share": 0.06,
        "delta_abs": 0.04 - 0.02 * done + 0.1 * wobble,
        "support_below_zero": 0.55 + wobble,
        "support_auc": 0.6 + 2 * wobble,
        "teacher_nll_ratio": 0.01,
        "polarity/reversed": 0.2,
        "polarity/neutral": 0.2 + 0.55 * done,
        "sampler_mismatch": 1e-3,
    }


#: How each guard's trouble looks, from step 31 on.
TROUBLE: dict[str, Change] = {
    "entropy_collapse": lambda step: {"entropy": 1e-4},
    "entropy_explosion": lambda step: {"entropy": 0.06 * 1.3 ** (step - 30)},
    "length": lambda step: {"length": 23 * 1.2 ** (step - 30)},
    "truncation": lambda step: {"truncated": 0.9},
    "accuracy": lambda step: {"accuracy": 0.2},
    "nothing_right": lambda step: {"accuracy": 0.0},
    "nothing_wrong": lambda step: {"accuracy": 0.98},
    "nothing_known": lambda step: {"accuracy": 0.0, "ungraded": 0.97},
    "no_spread": lambda step: {"groups_alike": 1.0},
    "style": lambda step: {"style_advantage_share": 0.6},
    "support_auc": lambda step: {"support_auc": 0.35 + 0.1 * (-1) ** step},
    "chase": lambda step: {"delta_abs": 0.03 * 1.2 ** (step - 30), "support_below_zero": 0.98},
    "teacher_equals_student": lambda step: {"delta_abs": 1e-7},
    "teacher_uniform": lambda step: {"teacher_nll_ratio": 1.0},
    "polarity": lambda step: {"polarity/reversed": 0.97, "polarity/neutral": 0.03},
    "sampler_mismatch": lambda step: {"sampler_mismatch": 0.3},
}


def records(steps: int, change: Change | None = None, after: int = 30) -> list[dict[str, Any]]:
    return [healthy(step) | (change(step) if change and step > after else {}) for step in range(1, steps + 1)]


def watched(past: list[dict[str, Any]], config: GuardsConfig | None = None) -> list[Finding]:
    watch = Monitor(config or GuardsConfig())
    return [finding for record in past for finding in watch(record)]


def test_every_guard_has_a_setting_and_a_trouble() -> None:
    assert set(GUARDS) == set(GuardsConfig.model_fields) == set(TROUBLE)


def test_no_guard_fires_on_a_run_that_learns() -> None:
    assert watched(records(120)) == []


@pytest.mark.parametrize("name", TROUBLE)
def test_each_guard_fires_on_its_trouble_once_and_soon(name: str) -> None:
    found = [finding for finding in watched(records(80, TROUBLE[name])) if finding.guard == name]
    assert len(found) == 1
    (finding,) = found
    assert 30 < finding.step <= 30 + getattr(GuardsConfig(), name).window
    assert GUARDS[name].beyond(finding.value, finding.bound)
    assert "\n" not in finding.message
    assert finding.line.startswith(f"guard {name}, step {finding.step}: {GUARDS[name].sees} ")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("length", {"length": 5.0}),
        ("length", {"length": 0.0}),
        ("polarity", {"polarity/neutral": 1.0, "polarity/reversed": 0.0}),
    ],
)
def test_the_other_side_of_a_trouble_is_seen_too(name: str, change: dict[str, Any]) -> None:
    assert [finding.guard for finding in watched(records(60, lambda step: change))] == [name]


def test_methods_on_distributions_have_a_gap_too() -> None:
    def distribution(nats: float) -> list[dict[str, Any]]:
        return [{"step": n, "rollouts": 8, "accuracy": 0.5, "divergence": nats} for n in range(1, 9)]

    assert [finding.guard for finding in watched(distribution(1e-9))] == ["teacher_equals_student"]
    assert watched(distribution(2e-3)) == []


def test_what_a_method_does_not_log_is_no_trouble() -> None:
    assert watched([{"step": n, "rollouts": 8, "accuracy": 0.5} for n in range(1, 50)]) == []


def test_gaps_that_grow_are_no_chase_while_some_teachers_are_for_the_rollouts() -> None:
    assert watched(records(60, lambda step: {"delta_abs": 0.03 * 1.2 ** (step - 30)})) == []


def test_few_rollouts_do_not_pass_for_a_collapse() -> None:
    """Half of the best accuracy is gone, and with four rollouts a step chance does that."""
    small = [{"step": n, "rollouts": 4, "accuracy": 0.5 if n <= 10 else 0.25} for n in range(1, 21)]
    assert watched(small) == []
    large = [record | {"rollouts": 64} for record in small]
    assert [finding.guard for finding in watched(large)] == ["accuracy"]


def test_an_auc_below_chance_by_chance_does_not_fire() -> None:
    """Its mean over the window is below the bound, but by less than its interval."""
    assert watched(records(60, lambda step: {"support_auc": (0.1, 0.75)[step % 2]})) == []
    assert watched(records(60, lambda step: {"support_auc": float("nan")})) == []


def test_the_interval_of_an_auc_is_students() -> None:
    """The steps of a short window are few: 1.96 standard errors would be sure too early."""

    def found(window: int, *aucs: float) -> list[str]:
        past = [{"step": n, "rollouts": 8, "accuracy": 0.5, "support_auc": auc} for n, auc in enumerate(aucs, 1)]
        return [f.guard for f in watched(past, GuardsConfig.model_validate({"support_auc": {"window": window}}))]

    assert found(3, 0.3, 0.4, 0.35) == []  # 0.35 ± 4.30 · 0.0289; 1.96 of them would end at 0.41
    assert found(3, 0.34, 0.36, 0.35) == ["support_auc"]
    assert found(2, 0.34, 0.35) == ["support_auc"]  # the shortest window that the configuration takes
    assert found(2, 0.33, 0.35) == []


def test_a_guard_fires_again_after_a_quiet_window_and_not_before() -> None:
    def cut(*troubled: range) -> list[int]:
        change = {"truncated": 1.0}
        past = [healthy(n) | (change if any(n in span for span in troubled) else {}) for n in range(1, 81)]
        config = GuardsConfig.model_validate({"truncation": {"window": 4, "bound": 0.6}})
        return [finding.step for finding in watched(past, config) if finding.guard == "truncation"]

    assert cut(range(10, 20)) == [12]
    assert cut(range(10, 20), range(22, 30)) == [12]  # within its bound for three steps only
    assert cut(range(10, 20), range(40, 50)) == [12, 42]


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.data())
def test_a_resumed_watch_says_what_the_uninterrupted_one_says(troubles: list[bool], data: st.DataObject) -> None:
    config = GuardsConfig.model_validate({"truncation": {"window": 3}, "length": {"window": 4}})
    past = [healthy(n) | ({"truncated": 1.0, "length": 90.0} if bad else {}) for n, bad in enumerate(troubles, 1)]
    stop = data.draw(st.integers(0, len(past)))
    resumed = Monitor(config, past[:stop])
    assert resumed.ended_by is None
    after = [finding for record in past[stop:] for finding in resumed(record)]
    assert after == [finding for finding in watched(past, config) if finding.step > stop]


def test_a_guard_that_is_off_looks_at_nothing() -> None:
    past = records(60, TROUBLE["truncation"])
    assert [finding.guard for finding in watched(past)] == ["truncation"]
    assert watched(past, GuardsConfig.model_validate({"truncation": {"action": "off"}})) == []


def test_the_trend_of_the_gaps_is_the_newer_half_by_the_older() -> None:
    watch = Monitor(GuardsConfig())
    for n in range(1, 10):
        record = {"step": n, "rollouts": 8, "accuracy": 0.5, "delta_abs": 0.1 if n <= 5 else 0.2}
        assert "delta_trend" not in watch.with_trend(record)
        watch(record)
    assert watch.with_trend({"step": 10, "delta_abs": 0.2})["delta_trend"] == pytest.approx(2.0)


# ── Settings ───────────────────────────────────────────────────────────────────────────────────────────────────────


def guards(text: str, tmp_path: Path) -> GuardsConfig:
    return parse_config({"method": {"name": "sgsd"}, "guards": parse_yaml(text, "config")}, "c.yaml").guards


def test_what_is_left_out_stays_the_guard_s_own(tmp_path: Path) -> None:
    own = GuardsConfig()
    read = guards("{truncation: {action: stop}, length: {action: off}, chase: {bound: 2, window: 7}}", tmp_path)
    assert read.truncation == own.truncation.model_copy(update={"action": "stop"})
    assert read.length == own.length.model_copy(update={"action": "off"})  # a bare off is false to YAML
    assert read.chase == GuardConfig(bound=2.0, window=7)
    assert read.style == own.style


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{truncatoin: {bound: 0.2}}", "guards.truncatoin: there is no such key; did you mean 'truncation'?"),
        ("{length: {bond: 2}}", "guards.length.bond: there is no such key; did you mean 'bound'?"),
        ("{length: {bound: '2'}}", "guards.length.bound: input should be a valid number, not '2'"),
        ("{length: {bound: -1}}", "guards.length.bound: input should be greater than 0, not -1"),
        ("{length: {bound: .nan}}", "guards.length.bound: input should be"),
        ("{length: {window: 1}}", "guards.length.window: input should be greater than or equal to 2, not 1"),
        ("{length: {action: halt}}", "guards.length.action: input should be 'off', 'warn' or 'stop', not 'halt'"),
        ("{length: 3}", "guards.length: input should be"),
    ],
)
def test_a_setting_that_means_nothing_is_refused_by_name(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(f"c.yaml: {said}")):
        guards(text, tmp_path)


def test_settings_survive_the_command_line_and_the_run_s_own_config(tmp_path: Path) -> None:
    from sgsd.cli.overrides import read_config

    config = small_config(tmp_path, guards={"length": {"action": "off"}})
    saved = tmp_path / "config.yaml"
    saved.write_text(config.to_yaml())
    assert read_config(saved, [], "sgsd").guards == config.guards
    changed = read_config(saved, ["--guards.length.bound", "3.5", "--guards.chase.action", "stop"], "sgsd").guards
    assert changed.length == GuardConfig(bound=3.5, window=10, action="off")
    assert changed.chase.action == "stop"


def test_the_documentation_has_every_guard_with_its_default() -> None:
    text = (Path(__file__).parents[2] / "docs" / "guards.md").read_text(encoding="utf-8")
    told = {
        name: (float(bound), int(window))
        for name, bound, window in re.findall(
            r"^\| `(\w+)` \|.*\| [a-z]+ ([\d.]+)[^|]* \| (\d+) \|", text, re.MULTILINE
        )
    }
    own = GuardsConfig()
    assert told == {name: (getattr(own, name).bound, getattr(own, name).window) for name in GUARDS}
