"""A cold start with a real server, decoding by schema, and kill -9 on the way."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from on_cpu import SERVED_AS

from runs import SMALL, merged
from sgsd.bank import BankStore, open_bank
from sgsd.skills import ServerSettings, ServerWriter
from sgsd.skills.drafts import ExtractedMistakes, ExtractedSkills
from sgsd.skills.writers.base import Request, WriterReply

pytest.importorskip("vllm", reason="vLLM has an environment of its own: make test-vllm")

ROLLOUTS = 48
BATCH = 4
ENVIRONMENT = {**os.environ, "OPENAI_API_KEY": "none"}


@pytest.fixture(scope="session")
def whole(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cold start that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    subprocess.run(build_command(folder, server), env=ENVIRONMENT, check=True)
    return folder


def build_command(folder: Path, url: str) -> list[str]:
    writer = {"kind": "server", "model": SERVED_AS, "base_url": url, "batch": BATCH, "retries": 0}
    skills = {"rollouts": ROLLOUTS, "merge_group": 8, "extract_tokens": 400, "merge_tokens": 400}
    bank = {"path": str(folder / "bank.sqlite")}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(merged(SMALL, {"bank": bank, "writer": writer, "skills": skills})))
    return [sys.executable, "-m", "sgsd.cli", "bank", "build", str(config)]


def answers_in(folder: Path) -> dict[str, str]:
    """What has been answered so far, by the hash of what was asked."""
    file = folder / "bank.sqlite.build" / "answers.sqlite"
    if not file.exists():
        return {}
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)
    try:
        return dict(connection.execute("SELECT key, text FROM answers"))
    except sqlite3.OperationalError:  # the table is being made
        return {}
    finally:
        connection.close()


def memories_in(folder: Path) -> bytes:
    file = folder / "bank.sqlite.build" / "memories.jsonl"
    return file.read_bytes() if file.exists() else b""


def done_in(folder: Path) -> int:
    return memories_in(folder).count(b"\n") + len(answers_in(folder))


def test_greedy_answers_do_not_depend_on_the_company(server: str) -> None:
    """What lets a request that a kill has struck be asked again."""
    asked = [
        Request((("user", f"A pupil wrote {n} + {n} = {2 * n}. What can others learn?"),), answer, 400)
        for n in range(8)
        for answer in (ExtractedSkills, ExtractedMistakes)
    ]
    found = []
    for concurrency in (1, 8):
        with ServerWriter(ServerSettings(SERVED_AS, server, retries=0, concurrency=concurrency)) as writer:
            found.append(dict(writer.write(asked)))
    assert all(isinstance(reply, WriterReply) for reply in found[0].values())
    assert len({reply.text for reply in found[0].values() if isinstance(reply, WriterReply)}) > 8
    assert found[0] == found[1]


def test_every_answer_of_a_cold_start_parses(whole: Path) -> None:
    told = json.loads((whole / "bank.sqlite.build" / "build.json").read_text())
    usage = told["writer"]
    assert usage["answers"] == usage["calls"] + usage["cached"] >= told["memories"] > ROLLOUTS // 2
    assert usage["repairs"] == 0
    assert not usage["failures"]
    assert not usage["dropped"]
    assert not usage["retried"]
    for text in answers_in(whole).values():
        form = ExtractedSkills if "general_skills" in text else ExtractedMistakes
        (items,) = json.loads(text).values()
        assert items
        assert set(items[0]) - {"sources"} == set(form.draft.model_fields)
    assert told["skills"] > 0
    assert told["mistakes"] > 0
    assert any(layer["after"] < layer["before"] for layers in told["layers"].values() for layer in layers)


def kill_on_the_way(folder: Path, command: list[str], kills: int, total: int) -> None:
    """Kill the build each time it has come a step further, the steps spread evenly over all there is to do."""
    for number in range(1, kills + 1):
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        try:
            while process.poll() is None and done_in(folder) < number * total // (kills + 1):
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, f"kill {number} came after the build's own end"


def compare_killed_with_whole(whole: Path, killed: Path, server: str, kills: int) -> None:
    command = build_command(killed, server)
    kill_on_the_way(killed, command, kills, done_in(whole))
    assert not (killed / "bank.sqlite").exists()
    subprocess.run(command, env=ENVIRONMENT, check=True)
    told = json.loads((killed / "bank.sqlite.build" / "build.json").read_text())
    assert told["writer"]["cached"] > 0, "nothing had been kept"
    assert answers_in(killed) == answers_in(whole)
    assert memories_in(killed) == memories_in(whole)
    assert open_bank(killed / "bank.sqlite").version == open_bank(whole / "bank.sqlite").version
    with BankStore(whole / "bank.sqlite", read_only=True) as a, BankStore(killed / "bank.sqlite", read_only=True) as b:
        assert a.events() == b.events()
        assert a.origins() == b.origins()
    assert not list(killed.rglob("*.tmp*"))


def test_a_killed_build_ends_in_the_same_bank(whole: Path, tmp_path: Path, server: str) -> None:
    compare_killed_with_whole(whole, tmp_path, server, kills=2)


@pytest.mark.prove
def test_ten_kills_end_in_the_same_bank(whole: Path, tmp_path: Path, server: str) -> None:
    compare_killed_with_whole(whole, tmp_path, server, kills=10)
