"""`sgsd probe` and the null teacher on the lab: what is measured is what training would judge; nothing is written."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from accelerate import Accelerator

from runs import SMALL, merged, run_small, small_config
from sgsd.bank import Ledger
from sgsd.cli.main import run
from sgsd.evaluation.probe import SOURCES, teacher_observations
from sgsd.records.metrics import StepMetrics
from sgsd.records.run_files import Records
from sgsd.train.batch import build_batch, grade
from sgsd.train.setup import build_run
from sgsd.train.skill_probe import observe, run_probe
from sgsd.train.step import score_teachers, update
from sgsd.types import Problem, TeacherView, UserError

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "lab_evidence.py"


def sgsd(stance: str, **options: Any) -> dict[str, Any]:
    return {"name": "sgsd", "k": 2, "confidence": 0.01, "stance": stance, **options}


def config_file(folder: Path, **changes: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(merged(SMALL, {"output": str(folder / "run"), **changes})))
    return path


@pytest.mark.parametrize("stance", ["raw", "contrast"])
def test_a_probe_reads_what_the_first_step_of_training_judges(stance: Any, tmp_path: Path) -> None:
    method = sgsd(stance)
    trained = Records(run_small(tmp_path / "run", steps=1, method=method)).read("sightings")
    config = small_config(tmp_path / "probe", method=method)
    parts = build_run(config, Accelerator())
    with parts.verifier:
        seen = observe(parts, config.rollouts)
    assert not (tmp_path / "probe").exists()
    found = [[index, *row] for index, row in zip((o.index for o in seen for _ in o.pools["bank"]), rows(seen, stance))]
    (line,) = trained
    for (index, ids, outcome, support, polarity), expected in zip(sorted(found), line["teachers"], strict=True):
        assert [index, ids, outcome, polarity] == [*expected[:3], expected[4]]
        assert support == pytest.approx(expected[3], abs=2e-5)
    for observation in seen:
        assert [len(observation.pools[source]) for source in SOURCES] == [2, 2, 2, 1]
        (nothing,) = observation.pools["null"]
        assert abs(nothing.support["raw"]) < 1e-5  # the same prompt and the same model


def rows(seen: Sequence[Any], stance: Any) -> list[list[Any]]:
    return [[list(s.items), s.outcome, s.support, s.polarity] for s in teacher_observations(seen, "bank", stance, 0.01)]


def test_the_null_teacher_is_scored_once_a_rollout_and_counts_as_no_teacher(tmp_path: Path) -> None:
    scored = {}
    for stance in ("raw", "contrast"):
        parts = build_run(small_config(tmp_path / stance, method=sgsd(stance)), Accelerator())
        with parts.verifier:
            rollouts = parts.sampler.sample(1)
            batch = build_batch(parts.contexts, rollouts, grade(parts.verifier, rollouts))
        taught = score_teachers(parts.learner, batch)
        assert len(taught.logps) == 2 * len(rollouts)
        assert len(taught.nulls) == (len(rollouts) if stance == "contrast" else 0)
        assert batch.teachers == 2
        metrics = StepMetrics()
        details = update(parts.learner, batch, taught, metrics, lr=1e-30)
        scored[stance] = metrics.sums["teachers"].item(), metrics.sums["teacher_tokens"].item()
        assert {detail.outputs.support_BK.shape[1] for detail in details} == {2}
    assert scored["raw"] == scored["contrast"]


@dataclass
class FitsSome:
    """A null teacher that fits every other problem."""

    inner: Any

    def views(self, problems: Sequence[Problem]) -> list[tuple[TeacherView, ...]]:
        return [
            pool if n % 2 else tuple(replace(view, prompt_ids=(), weight=0.0) for view in pool)
            for n, pool in enumerate(self.inner.views(problems))
        ]


def test_a_rollout_whose_null_teacher_does_not_fit_is_left_out_whole(tmp_path: Path) -> None:
    parts = build_run(
        small_config(tmp_path, method=sgsd("contrast"), prompts={"unfit": "skip"}, rollouts=4), Accelerator()
    )
    half: Any = FitsSome(parts.contexts.null_teachers)
    parts.contexts = replace(parts.contexts, null_teachers=half)
    with parts.verifier:
        rollouts = parts.sampler.sample(1)
        batch = build_batch(parts.contexts, rollouts, grade(parts.verifier, rollouts))
    metrics = StepMetrics()
    details = update(parts.learner, batch, score_teachers(parts.learner, batch), metrics, lr=1e-30)
    metrics.add_rollouts(batch.rollouts, batch.verdicts)
    found = metrics.finish(lambda sums: sums)
    assert (found["untaught_rollouts"], found["skipped_teachers"]) == (2, 4)
    for detail in details:
        silent = detail.position % 2 == 0
        assert (detail.outputs.losses_BT[detail.row] == 0).all().item() == silent
        assert (detail.outputs.support_BK[detail.row] == 0).all().item() == silent


def test_a_run_by_contrast_logs_its_teachers_and_not_the_null_one(tmp_path: Path) -> None:
    folder = run_small(tmp_path / "run", steps=1, method=sgsd("contrast"), logged_rollouts=2)
    for rollout in Records(folder).read("rollouts"):
        assert [teacher["source"] for teacher in rollout["teachers"]] == ["skill_pair"] * 2
        assert all(teacher["support"] is not None for teacher in rollout["teachers"])


def test_the_command_shows_the_figures_and_writes_them_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = config_file(tmp_path, method=sgsd("ratio")), tmp_path / "probe.json"
    assert run(["probe", str(config), "--rollouts=36", "--json", str(out), "--method.k", "3"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for part in (
        "36 rollouts of",
        "bank as a whole",
        "off-topic, as long",
        "items by standing",
        "The rule, by the ratio",
    ):
        assert part in shown
    written = json.loads(out.read_text())
    assert written["verdict"]["answer"] in ("yes", "no", "cannot tell")
    assert written["verdict"]["sentence"] in shown
    assert written["rule"] in shown
    assert (written["stance"], written["made_by"]["rollouts"], written["made_by"]["seed"]) == ("ratio", 36, 0)
    assert written["made_by"]["config"]["method"]["k"] == 3
    assert {"sgsd", "torch"} <= written["made_by"]["versions"].keys()
    assert set(written["findings"]["separations"]) == {"raw", "contrast", "ratio"}
    ledger = Ledger.from_json(written["ledger"])
    assert sum(stats.retrieved for stats in ledger.items.values()) == 36 * 3 * 2
    for item in written["items"]:
        assert item["standing"] == ledger.standing(item["id"])
    assert not (tmp_path / "run").exists()
    assert run(["probe", str(config), "--json", str(out)]) == 2
    assert "the file exists" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_figures(tmp_path: Path) -> None:
    def probed() -> dict[str, Any]:
        parts = build_run(small_config(tmp_path, rollouts=24), Accelerator())
        with parts.verifier:
            return run_probe(parts, 24).to_dict()

    assert probed() == probed()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--method.name", "grpo", "--method.group", "4"],
            "grpo retrieves no skill pairs, so there is no bank to probe",
        ),
        (["--method.name", "opsd"], "opsd retrieves no skill pairs"),
        (["--rollouts", "many"], "--rollouts: 'many' is not a whole number from 1 on"),
        (["--rollouts", "0"], "--rollouts: '0' is not"),
        (["--rollouts=0"], "--rollouts: '0' is not"),
        (["--rollouts"], "--rollouts: say what"),
        (["--json", "--rollouts", "4"], "--json: say what"),
    ],
)
def test_what_cannot_be_probed_is_one_line(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"method": {"name": argv[1]}} if argv[0] == "--method.name" else {}
    assert run(["probe", str(config_file(tmp_path, **changes)), *argv]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said


def test_a_probe_without_a_config_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run(["probe"])
    assert "sgsd probe CONFIG [--rollouts N]" in capsys.readouterr().out
    assert run(["probe", "--rollouts", "8"]) == 2
    assert "the config file comes before --rollouts" in capsys.readouterr().err


def test_several_processes_are_refused(tmp_path: Path) -> None:
    parts = build_run(small_config(tmp_path), Accelerator())

    class Two:
        num_processes = 2

    parts.policy.accelerator = Two()  # type: ignore[assignment]
    with parts.verifier, pytest.raises(UserError, match="a probe runs in one process"):
        run_probe(parts, 8)


# ── The benchmark that asks which stance tells items apart ─────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lab_evidence", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_scores_a_ledger_that_knows_everything_with_1(benchmark: ModuleType) -> None:
    from sgsd.bank import TeacherObservation

    bank = benchmark.bank_of(0)
    kinds = benchmark.item_kinds(bank.items)
    assert {kind: list(kinds.values()).count(kind) for kind in benchmark.MIX} == {
        k: 2 * n for k, n in benchmark.MIX.items()
    }
    worth = {"helpful": 0.1, "stylistic": 0.0, "irrelevant": 0.0, "misleading": -0.1}
    told = [
        TeacherObservation((item,), outcome, outcome * worth[kind], 0)
        for item, kind in kinds.items()
        for outcome in (1, -1)
    ]
    found = benchmark.figures(Ledger().observe(told).standing, kinds)
    assert found == dict.fromkeys(benchmark.COMPARISONS, 1.0)
    assert set(benchmark.figures(Ledger().standing, kinds).values()) == {0.5}
    assert benchmark.figures(Ledger().standing, {"a": "helpful"}) == dict.fromkeys(benchmark.COMPARISONS)


def test_the_benchmark_gives_each_mean_its_interval(benchmark: ModuleType) -> None:
    assert benchmark.mean_of([0.8]) == {"mean": 0.8, "values": [0.8]}
    found = benchmark.mean_of([0.7, 0.8, 0.7, 0.8, 0.7, 0.8])  # of any number of values: six are 5 degrees of freedom
    half = 2.5706 * (0.06 * 0.05) ** 0.5 / 6**0.5  # s² = 6 · 0.05² / 5
    assert (found["low"], found["high"]) == pytest.approx((0.75 - half, 0.75 + half))
    assert benchmark.mean_of([0.9, 1.0])["high"] == 1.0


def test_the_benchmark_reads_a_trained_run(benchmark: ModuleType, tmp_path: Path) -> None:
    bank = tmp_path / "bank.json"
    benchmark.main(["--write-bank", str(bank), "--seed", "1"])
    folder = run_small(tmp_path / "run", steps=2, rollouts=16, bank={"path": str(bank)}, method=sgsd("contrast"))
    found = benchmark.of_run(folder)
    assert set(found) == {"sightings_an_item", "never_shown", "contrast"}
    assert found["sightings_an_item"] == 2 * 16 * 2 * 2 / 48
    assert found["contrast"].keys() == {"items", "shown items", "pairs"}
    assert all(0 <= value <= 1 for value in found["contrast"]["pairs"].values() if value is not None)
