"""A cold start as a user runs it: the lab's policy, a real client, a scripted server, and kill -9 on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from runs import SMALL, merged, quiet
from scripted_server import scripted_server
from sgsd.bank import BankStore, item_history, item_texts, open_bank
from sgsd.train import make_config
from sgsd.train.bank_building import build_from_config
from sgsd.types import UserError

pytest.importorskip("openai", reason="the client is an extra: pip install 'sgsd[writer]'")

ROLLOUTS = 48


def build_config(folder: Path, url: str, **changes: object) -> dict[str, object]:
    writer = {"kind": "server", "model": "scripted", "base_url": url, "batch": 2, "retries": 0}
    skills = {"rollouts": ROLLOUTS, "merge_group": 8}
    return merged(SMALL, {"bank": {"path": str(folder / "bank.sqlite")}, "writer": writer, "skills": skills, **changes})


def test_a_cold_start_keeps_the_way_from_rollout_to_item(tmp_path: Path) -> None:
    with scripted_server() as (url, prompts):
        path = build_from_config(make_config(build_config(tmp_path, url)), quiet())
    assert path is not None
    told = json.loads((tmp_path / "bank.sqlite.build" / "build.json").read_text())
    assert told["memories"] + told["unknown"] == ROLLOUTS
    writer = told["writer"]
    assert writer["calls"] == len(prompts)
    assert writer["answers"] == writer["calls"] + writer["cached"]  # every answer could be read
    assert not writer["dropped"]
    assert not writer["failures"]
    bank = open_bank(path)
    heads = [item_texts(item)[0] for item in bank.items]
    assert len(heads) == len(set(heads)) > 8, "like has met like, and nothing else was merged"
    with BankStore(path, read_only=True) as store:
        life = item_history(store, bank.skills[0].id)
        assert life.current
        roots = [memory for ancestor in life.walk() for memory in ancestor.memories]
        assert roots
        assert all(memory["correct"] for memory in roots)
        golds = [memory for memory in roots if "gold" in memory or "answer" in memory]
    assert not golds, "a memory holds no reference answer"


def test_no_prompt_holds_a_reference_answer_that_the_policy_did_not_write(tmp_path: Path) -> None:
    with scripted_server() as (url, prompts):
        build_from_config(make_config(build_config(tmp_path, url)), quiet())
    lines = (tmp_path / "bank.sqlite.build" / "memories.jsonl").read_text().splitlines()
    written = [json.loads(line) for line in lines]
    failures = [m for m in written if len(m) > 1 and not m["correct"]]
    assert failures
    from sgsd.lab.task import problems

    stream = problems(held_out=False, seed=0)
    golds = {p.text: p.to_problem().gold for p, _ in zip(stream, range(256))}
    for memory in failures:
        asked = next(p for p in prompts if memory["problem"] in p and memory["solution"].strip() in p)
        rest = asked.replace(memory["problem"], "").replace(memory["solution"].strip(), "")
        assert f"boxed{{{golds[memory['problem']]}}}" not in rest


def test_dry_run_asks_nothing_and_writes_nothing(tmp_path: Path) -> None:
    with scripted_server() as (url, prompts):
        assert build_from_config(make_config(build_config(tmp_path, url)), quiet(), dry_run=True) is None
    assert not prompts
    assert not list(tmp_path.iterdir())


def test_other_settings_are_refused_while_a_build_is_under_way(tmp_path: Path) -> None:
    with scripted_server() as (url, _):
        config = build_config(tmp_path, url)
        build_from_config(make_config(config), quiet())
        with pytest.raises(UserError, match="is there already"):
            build_from_config(make_config(config), quiet())
        (tmp_path / "bank.sqlite").unlink()
        other = merged(config, {"skills": {"items": 2}})
        with pytest.raises(UserError, match=r"skills\.items: was 3, now 2"):
            build_from_config(make_config(other), quiet())


def kill_sometimes(folder: Path, config: Path, kills: int, seed: int, longest: float) -> None:
    """Run the build again and again, each time killed after a random time, until it has been killed often enough."""
    draw = random.Random(seed)
    command = [sys.executable, "-m", "sgsd.cli", "bank", "build", str(config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": "none"}
    for _ in range(kills):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + draw.uniform(0, longest)
        work = folder / "bank.sqlite.build"
        while not work.exists() and process.poll() is None:  # a kill during the imports proves little
            time.sleep(0.02)
            deadline += 0.02
        time.sleep(max(0.0, deadline - time.monotonic()))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, env=environment, check=(not (folder / "bank.sqlite").exists()), capture_output=True)


def compare_killed_with_whole(tmp_path: Path, kills: int, longest: float) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    with scripted_server(delay=0.02) as (url, prompts):
        build_from_config(make_config(build_config(whole, url)), quiet())
        asked_once = Counter(prompts)
        prompts.clear()
        config = killed / "config.yaml"
        config.write_text(yaml.safe_dump(build_config(killed, url)))
        kill_sometimes(killed, config, kills, seed=0, longest=longest)
        asked = Counter(prompts)
    assert asked.keys() == asked_once.keys()
    # What was on its way when a kill struck is asked again: at most one batch a kill.
    assert asked.total() <= asked_once.total() + 2 * kills
    left, right = open_bank(whole / "bank.sqlite"), open_bank(killed / "bank.sqlite")
    assert left.version == right.version
    with BankStore(whole / "bank.sqlite", read_only=True) as a, BankStore(killed / "bank.sqlite", read_only=True) as b:
        assert a.events() == b.events()
        assert a.origins() == b.origins()
    memories = [(folder / "bank.sqlite.build" / "memories.jsonl").read_bytes() for folder in (whole, killed)]
    assert memories[0] == memories[1]
    assert not list(killed.rglob("*.tmp*"))


def test_a_killed_build_ends_in_the_same_bank(tmp_path: Path) -> None:
    compare_killed_with_whole(tmp_path, kills=2, longest=1.5)


@pytest.mark.prove
def test_ten_kills_end_in_the_same_bank(tmp_path: Path) -> None:
    compare_killed_with_whole(tmp_path, kills=10, longest=1.5)
