"""`sgsd push` against a hub on 127.0.0.1 (never the real one): what leaves the machine, and what never does."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_hub import Hub, running_hub
from huggingface_hub import ModelCard

from runs import run_small
from sgsd.bank import load_bank, parse_bank, save_bank
from sgsd.cli.main import run as sgsd
from sgsd.hub.export import gather
from sgsd.lab.demo_bank import demo_bank
from sgsd.types import UserError

WEIGHTS = {
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer_config.json",
}
MADE = {"README.md", "config.yaml", "summary.json", "bank.json"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("private-place") / "run"
    return run_small(folder, name="mine", steps=1, lora={"rank": 8, "alpha": 16})


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Logged in by the environment, as huggingface_hub does it."""
    import huggingface_hub
    from huggingface_hub import constants, hf_api

    with running_hub() as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(hf_api.constants, "ENDPOINT", server.address)
        monkeypatch.setenv("HF_TOKEN", "hf_of_the_login")
        plain = huggingface_hub.HfApi
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: plain(endpoint=server.address))
        yield server


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_uploaded(finished: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    for stray in ("optimizer.pt", "notes.txt", "rollouts.jsonl", "pytorch_model.bin", ".secret"):
        (finished / "adapter" / stray).write_text("stays")
    assert sgsd(["push", str(finished), "me/mine", "--private"]) == 0
    out = capsys.readouterr().out
    assert "Uploaded: " in out
    assert "bank.json may hold text made from the training data" in out
    assert "notes.txt" in out.split("Stays here: ")[1]
    assert set(hub.files) == WEIGHTS | MADE
    for name in WEIGHTS:
        assert hub.files[name] == (finished / "adapter" / name).read_bytes()
        assert hashlib.sha256(hub.files[name]).hexdigest() in out
    assert hub.private == {"me/mine": True}
    assert hub.commits == ["main"]
    assert hub.tokens <= {"Bearer hf_of_the_login", None}
    assert parse_bank(hub.files["bank.json"].decode()).version == demo_bank().version
    assert yaml.safe_load(hub.files["config.yaml"])["output"] == "run"
    summary = json.loads(hub.files["summary.json"])
    assert summary["bank_version"] == demo_bank().version
    assert "command" not in summary
    everything = b"".join(hub.files.values())
    for private in (b"private-place", b"pytest-of-", b"hf_of_the_login", b"stays"):
        assert private not in everything


def test_the_card_that_is_pushed_names_its_place(finished: Path) -> None:
    card = gather(finished, "me/mine").text("README.md")
    assert 'PeftModel.from_pretrained(base, "me/mine")' in card
    assert "beside this card as `bank.json`" in card
    assert "bank.json" not in gather(finished, "me/mine", with_bank=False).text("README.md")
    saved = (finished / "adapter" / "README.md").read_text()
    assert card.replace('"me/mine"', '"path/to/adapter"').replace(", beside this card as `bank.json`", "") == saved
    assert ModelCard(card).data.to_dict()["library_name"] == "peft"


def test_a_dry_run_asks_nobody(finished: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert sgsd(["push", str(finished), "me/mine", "--dry-run", "--no-bank"]) == 0
    out = capsys.readouterr().out
    assert hub.tokens == set()
    weights = (finished / "adapter" / "adapter_model.safetensors").read_bytes()
    line = next(line for line in out.splitlines() if line.endswith("adapter_model.safetensors"))
    assert hashlib.sha256(weights).hexdigest() in line
    assert f"{len(weights):,} bytes" in line
    assert "## What is not known" in out
    assert "bank.json" not in out


def test_a_branch_is_made_and_used(finished: Path, hub: Hub) -> None:
    assert sgsd(["push", str(finished), "me/mine", "--revision", "second", "--no-bank"]) == 0
    assert (hub.branches, hub.commits, hub.private) == (["second"], ["second"], {"me/mine": False})
    assert set(hub.files) == (WEIGHTS | MADE) - {"bank.json"}


def test_a_public_repository_is_refused_where_a_private_one_is_meant(
    finished: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.private["me/mine"] = False
    assert sgsd(["push", str(finished), "me/mine", "--private"]) == 2
    assert "is public" in capsys.readouterr().err
    assert hub.files == hub.blobs == {}


def test_what_the_hub_refuses_is_one_line(
    finished: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "answer", lambda *a: (401, {"error": "Invalid username or password."}))
    assert sgsd(["push", str(finished), "me/mine"]) == 2
    message = capsys.readouterr().err
    assert "me/mine: the hub says: " in message
    assert "hf auth login" in message
    assert message.count("\n") == 1


def test_a_hub_that_is_not_there(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sgsd(["push", str(finished), "me/mine"]) == 2  # HF_HUB_OFFLINE is set for all tests
    assert sgsd(["push", str(finished), "not a name"]) == 2


def test_a_hub_that_hangs_up(finished: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.shut_down()
    assert sgsd(["push", str(finished), "me/mine"]) == 2
    assert "me/mine: the hub says: " in capsys.readouterr().err


def test_an_unfinished_run_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run here"):
        gather(tmp_path / "nowhere", "me/x")
    shutil.move(finished / "adapter", finished / "gone")
    with pytest.raises(UserError, match="neither an adapter nor a model"):
        gather(finished, "me/x")
    (finished / "adapter").mkdir()
    with pytest.raises(UserError, match="holds no safetensors"):
        gather(finished, "me/x")
    (finished / "summary.json").unlink()
    with pytest.raises(
        UserError, match=r"is not finished \(there is no summary.json\); go on with it: sgsd train .*--resume"
    ):
        gather(finished, "me/x")


def test_the_bank_is_the_runs_own_or_none(finished: Path, tmp_path: Path) -> None:
    own = finished / "bank.sqlite"
    assert own.is_file(), "a run keeps its bank in a store"
    own.unlink()
    path, saved = tmp_path / "bank.json", finished / "config.yaml"
    save_bank(demo_bank(), path)
    config = yaml.safe_load(saved.read_text())
    saved.write_text(yaml.safe_dump({**config, "bank": {**config["bank"], "path": str(path)}}))
    assert json.loads(gather(finished, "me/x").text("bank.json")) == json.loads(path.read_text())
    bank = load_bank(path)
    save_bank(type(bank)(skills=bank.skills[:1], mistakes=bank.mistakes[:1]), path)
    with pytest.raises(UserError, match=r"the bank has changed since the run .*--no-bank"):
        gather(finished, "me/x")
    assert "bank.json" not in {file.name for file in gather(finished, "me/x", with_bank=False).files}
    edit(finished / "summary.json", bank_version=None)
    assert "bank.json" not in {file.name for file in gather(finished, "me/x").files}


def test_track_from_the_command_line(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    assert sgsd(["track", str(finished), "--to", "tensorboard"]) == 0
    (run,) = (finished / "tensorboard").iterdir()
    assert run.name in capsys.readouterr().out
