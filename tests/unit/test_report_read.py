"""Reading a run folder: what is tolerated, what is refused, and in which words."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgsd.records.lenient import as_float, parse
from sgsd.records.rollout_schema import RolloutRecord
from sgsd.report.read import read_lines, read_run
from sgsd.secrets import hide_secrets, without_secrets
from sgsd.types import UserError

ROLLOUT: dict[str, Any] = {
    "step": 1,
    "index": 17,
    "problem_id": "p17",
    "problem": "17 + 6",
    "gold": 23,
    "completion": "23",
    "tokens": ["2", "3"],
    "status": "correct",
    "answer": "23",
    "outcome": 1,
    "mask": [1, 0],
    "advantages": None,
    "teachers": [{"source": "answer", "items": [], "weight": 1.0, "support": 0.1, "delta": [0.1, None], "gate": []}],
}


def write_run(folder: Path, **files: list[dict[str, Any]] | str) -> Path:
    """A run folder with the given files, and one step of metrics unless they are given."""
    for name, content in ({"metrics": [{"step": 1, "loss": 0.5}]} | files).items():
        text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
        suffix = {"config": ".yaml", "summary": ".json"}.get(name, ".jsonl")
        (folder / f"{name}{suffix}").write_text(text, encoding="utf-8")
    return folder


def test_the_smallest_run_is_a_run(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path))
    assert (run.name, run.step, run.planned_steps, run.summary) == (tmp_path.name, 1, None, None)
    assert run.metrics[0].values == {"loss": 0.5}


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent: no such run folder"):
        read_run(tmp_path / "absent")


@pytest.mark.parametrize("bad", ["{broken", "[1, 2]", "7", '{"step": 1}{"step": 2}'])
def test_a_broken_line_is_named_with_its_number(tmp_path: Path, bad: str) -> None:
    write_run(tmp_path, metrics=f'{{"step": 1}}\n{bad}\n{{"step": 3}}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: not a JSON object; mend or delete"):
        read_run(tmp_path)


def test_wherever_a_writer_is_killed_the_whole_lines_before_are_read(tmp_path: Path) -> None:
    rows = [{"step": i, "note": "ünï \\ \u2028", "loss": i / 7} for i in range(1, 4)]
    whole = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path = tmp_path / "metrics.jsonl"
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        read = read_lines(path)
        only_the_end_is_missing = whole[size : size + 1] == b"\n"
        complete = whole[:size].count(b"\n") + only_the_end_is_missing
        assert [row.fields["step"] for row in read.rows] == list(range(1, complete + 1))
        assert read.torn == (size > 0 and whole[size - 1 : size] != b"\n" and not only_the_end_is_missing)


def test_a_resumed_run_counts_a_repeated_step_once_and_believes_the_later_row(tmp_path: Path) -> None:
    rows = [{"step": s, "loss": float(s)} for s in (1, 2, 3)] + [{"step": s, "loss": 10.0 * s} for s in (2, 3, 4)]
    run = read_run(write_run(tmp_path, metrics=rows))
    assert [(row.step, row.values["loss"]) for row in run.metrics] == [(1, 1), (2, 20), (3, 30), (4, 40)]


def test_what_is_no_number_is_no_measurement(tmp_path: Path) -> None:
    text = '{"step": 1, "a": NaN, "b": null, "c": "x", "d": true, "e": [1], "f": 2, "g": 1e999, "h": -Infinity}\n'
    values = read_run(write_run(tmp_path, metrics=text)).metrics[0].values
    assert values.keys() == {"a", "f", "g", "h"}
    assert values["f"] == 2
    assert all(math.isnan(values[key]) for key in "agh")


@given(st.integers() | st.floats() | st.booleans() | st.none() | st.text())
def test_a_measurement_is_finite_and_summable_or_nan_or_nothing(value: object) -> None:
    number = as_float(value)
    if number is not None:
        assert not isinstance(value, bool | str)
        assert math.isnan(number) or abs(number) <= 1e30


def test_evaluations_are_named_as_a_reader_says_them(tmp_path: Path) -> None:
    row = {"step": 0, "split": "held-out", "problems": 512, "samples": 4, "greedy": None}
    row["avg_at_k"] = {"accuracy": 0.42, "low": 0.40, "high": None, "k": 4}
    (evaluation,) = read_run(write_run(tmp_path, evaluations=[row])).evaluations
    assert list(evaluation.measures) == ["avg@4"]
    assert evaluation.measures["avg@4"].accuracy == 0.42
    assert not evaluation.measures["avg@4"].has_interval


def test_a_rollout_may_leave_out_what_its_method_does_not_have(tmp_path: Path) -> None:
    (rollout,) = read_run(write_run(tmp_path, rollouts=[ROLLOUT])).rollouts
    assert (rollout.gold, rollout.mask, rollout.advantages) == ("23", (True, False), ())
    (teacher,) = rollout.teachers
    assert (teacher.stance, teacher.polarity, teacher.gate, teacher.delta[0]) == (None, None, (), 0.1)
    assert math.isnan(teacher.delta[1])


@pytest.mark.parametrize("key", ["mask", "advantages", "delta", "gate"])
def test_lists_that_do_not_fit_the_tokens_are_refused_by_name(tmp_path: Path, key: str) -> None:
    teacher = ROLLOUT["teachers"][0] | ({key: [1.0] * 3} if key in ("delta", "gate") else {})
    bad = ROLLOUT | ({key: [1] * 3} if key in ("mask", "advantages") else {}) | {"teachers": [teacher]}
    with pytest.raises(UserError, match=rf"rollouts\.jsonl, line 2.*field '{key}' has 3 values for 2 tokens"):
        read_run(write_run(tmp_path, rollouts=[ROLLOUT, bad]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": None}, "field 'step' should be a whole number, not null"),
        ({"step": "3"}, "field 'step' should be a whole number"),
        ({"tokens": "ab"}, "field 'tokens' should be a list"),
        ({"teachers": [1]}, "field 'teachers' should be a list of objects"),
        ({"advantages": ["x", 1]}, "field 'advantages' should be a list of numbers"),
        ({"problem": {"text": "?"}}, "field 'problem' should be a text"),
    ],
)
def test_a_wrong_field_is_named_in_one_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_run(write_run(tmp_path, rollouts=[ROLLOUT | change]))
    assert str(caught.value).startswith("rollouts.jsonl, line 1: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_half_written_summary_is_a_run_in_progress(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, summary='{"name": "demo", "befo'))
    assert run.summary is None
    assert run.remarks == ("summary.json is unfinished, so the run is shown as not finished",)


def test_further_facts_of_a_summary_are_kept_as_text(tmp_path: Path) -> None:
    summary = {
        "name": "demo",
        "versions": {"torch": "2.13"},
        "model_sha256": "ab",
        "command": ["sgsd", "demo"],
        "x": None,
    }
    run = read_run(write_run(tmp_path, summary=json.dumps(summary)))
    assert run.summary is not None
    assert run.summary.facts == {"versions · torch": "2.13", "model sha256": "ab", "command": "sgsd demo"}


@pytest.mark.parametrize(
    ("config", "known"),
    [
        ("steps: 60\nevaluation: {skills: 8}", (60, 8)),
        ("steps: 0\nevaluation: {skills: 0}", (0, 0)),
        ("steps: '60'\nevaluation: [8]", (None, None)),
        ("steps: true\nevaluation: {skills: -1}", (None, None)),
        ("name: x", (None, None)),
    ],
)
def test_what_the_config_counts_is_a_whole_number_or_not_known(
    config: str, known: tuple[int | None, int | None], tmp_path: Path
) -> None:
    run = read_run(write_run(tmp_path, config=config))
    assert (run.planned_steps, run.skills) == known


def test_nested_numbers_are_measurements_under_their_path(tmp_path: Path) -> None:
    row = {"step": 1, "sources": {"shuffled": {"validated": 0.25, "note": "x"}}, "support_histogram": [1, 2]}
    assert read_run(write_run(tmp_path, metrics=[row])).metrics[0].values == {"sources/shuffled/validated": 0.25}


def test_a_teacher_that_was_left_out_said_nothing(tmp_path: Path) -> None:
    written = {"skipped": True, "weight": 0.0, "support": 0.0, "stance": 0, "polarity": 0, "delta": [0.0, 0.0]}
    (rollout,) = read_run(write_run(tmp_path, rollouts=[ROLLOUT | {"teachers": [written]}])).rollouts
    (teacher,) = rollout.teachers
    assert teacher.skipped
    assert (teacher.stance, teacher.polarity, teacher.delta, teacher.gate) == (None, None, (), ())
    assert math.isnan(teacher.support)


def test_a_run_that_trained_nothing_was_measured_once(tmp_path: Path) -> None:
    found = {"greedy": {"accuracy": 0.66, "low": 0.6, "high": 0.7}}
    for steps, measured in ((0, 0), (3, 1)):
        summary = json.dumps({"steps": steps, "before": found, "after": found})
        run = read_run(write_run(tmp_path, summary=summary))
        assert run.summary is not None
        assert (len(run.summary.before), len(run.summary.after)) == (1, measured)


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "!!python/object:os.system {}"])
def test_a_config_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"config\.yaml.*mend the file or move it away"):
        read_run(write_run(tmp_path, config=text))


SECRETS = {
    "writer": [{"api_key": "s3cret", "OPENAI_API_KEY": "s3cret", "apiKey": "s3cret"}],
    "hf_token": "s3cret",
    "token": "s3cret",
    "options": {"key": "s3cret", "pin": {"password": 53}, "tokens": ["hf_" + "s3cret" * 4, "sk-" + "s3cret" * 4]},
    "url": "http://user:s3cret@host/v1",
}
LOOK_ALIKES = {
    **{"max_tokens": 64, "api_key_env": "NAME", "key_variable": "NAME", "password": None, "monkey": "x"},
    **{"reason_tokens": 8, "keys": ["x"], "path": "sk-learn/model", "model": "hub:gpt2@None", "api_key": False},
}


def test_secrets_are_hidden_at_any_depth_and_look_alikes_are_not() -> None:
    hidden = json.dumps(without_secrets(SECRETS))
    assert "s3cret" not in hidden
    assert "53" not in hidden
    assert "http://(hidden)host/v1" in hidden
    assert without_secrets(LOOK_ALIKES) == LOOK_ALIKES


@pytest.mark.parametrize(
    "words",
    [
        ["--verifier.options.token", "s3cret"],
        ["--verifier.options.api-key=s3cret"],
        ["--track.password", "s3cret with 'blanks'"],
        ["--track.password=s3cret with blanks"],
        ["--rollout.base_url", "http://me:s3cret@host"],
        ["--x", "ghp_" + "s3cret" * 4],
    ],
)
def test_secrets_of_a_command_line_are_hidden(words: list[str]) -> None:
    hidden = hide_secrets(f"sgsd train c.yaml {shlex.join(words)} --sampling.max_tokens 64")
    assert "s3cret" not in hidden
    assert "blanks" not in hidden
    assert hidden.startswith("sgsd train c.yaml ")
    assert hidden.endswith(" --sampling.max_tokens 64")


def test_no_secret_of_config_or_summary_is_read(tmp_path: Path) -> None:
    command = ["sgsd", "train", "c.yaml", "--writer.token", "s3cret"]
    summary = {"name": "http://me:s3cret@host", "machine": SECRETS, "command": command}
    run = read_run(write_run(tmp_path, config=json.dumps(SECRETS), summary=json.dumps(summary)))
    assert "s3cret" not in repr(run)
    assert run.summary is not None
    assert run.summary.facts["command"] == "sgsd train c.yaml --writer.token (hidden)"


def test_a_row_quotes_what_it_found_briefly() -> None:
    with pytest.raises(UserError) as caught:
        parse(RolloutRecord, {"step": "x" * 500}, "metrics.jsonl, line 9")
    assert len(str(caught.value)) < 200
