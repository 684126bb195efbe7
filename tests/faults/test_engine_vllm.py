"""vLLM in a process of its own: what it is told, and what becomes of a call when that process dies, hangs or lies."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sgsd.rollout import EngineError, Sampling, Snapshots, Untrained, VllmEngine, VllmSettings
from sgsd.rollout.engine import request_seed
from sgsd.types import Completion, UserError

FAKE = Path(__file__).parent / "fake_vllm"
PROMPTS = [(1,) * n for n in (9, 10, 11, 12)]
INDICES = [7, 8, 9, 10]
SAMPLING = Sampling(max_tokens=8)
Make = Callable[..., VllmEngine]


def save(folder: Path) -> None:
    (folder / "weights").write_text("w")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    made: list[VllmEngine] = []

    def engine(trouble: str = "", kind: Any = "adapter", **changes: Any) -> VllmEngine:
        told = {"FAKE_VLLM": trouble, "FAKE_VLLM_MARK": str(tmp_path / "mark")}
        settings = VllmSettings(
            **{
                "model": "some/model",
                "log": tmp_path / "vllm.log",
                "max_rank": 8 if kind == "adapter" else None,
                "start": 20.0,
                "silence": 20.0,
                "environment": {**told, "FAKE_VLLM_NOTES": str(tmp_path / "notes")},
                **changes,
            }
        )
        snapshots = Untrained() if kind == "none" else Snapshots(tmp_path / "engine", kind, save)
        made.append(VllmEngine(settings, snapshots, str, frozenset([99])))
        return made[-1]

    yield engine
    for each in made:
        each.close()


def notes(folder: Path, what: str = "") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "notes").read_text().splitlines()]
    return [note for note in found if not what or note["what"] == what]


def sample(engine: VllmEngine, prompts: Sequence[tuple[int, ...]] = PROMPTS) -> list[Completion]:
    return engine.sample(prompts, INDICES[: len(prompts)], SAMPLING, seed=5)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def expected(adapter: int) -> list[tuple[int, ...]]:
    return [(len(p), request_seed(5, i) % 97, adapter, 99) for p, i in zip(PROMPTS, INDICES)]


def test_an_untrained_policy_is_what_the_engine_was_started_with(make: Make, tmp_path: Path) -> None:
    engine = make("die 2", kind="none")
    assert len(sample(engine)) == len(PROMPTS)
    assert engine.restarts == 1  # and there was nothing to give to the new one
    assert {note["what"] for note in notes(tmp_path)} == {"start", "sample"}
    assert not (tmp_path / "engine").exists()


def test_a_call_asks_for_all_prompts_at_once_each_with_its_own_seed(make: Make, tmp_path: Path) -> None:
    done = sample(make())
    assert [c.token_ids for c in done] == expected(1)
    assert [c.index for c in done] == INDICES
    assert all(c.logps == (-0.5,) * 4 and c.finish == "stop" for c in done)
    canary, asked = notes(tmp_path, "sample")
    assert canary["count"] == 1
    assert asked["count"] == 4
    assert asked["seeds"] == [request_seed(5, i) for i in INDICES]
    draw = asked["draw"]
    assert (draw["logprobs"], draw["ignore_eos"], draw["stop_token_ids"]) == (0, True, [99])
    assert (draw["temperature"], draw["top_p"], draw["top_k"], draw["max_tokens"]) == (1.0, 1.0, 0, 8)


def test_each_sync_is_a_new_number_name_and_folder_and_the_old_ones_go(make: Make, tmp_path: Path) -> None:
    engine = make()
    for number in (1, 2, 3):
        engine.sync()
        assert [c.token_ids for c in sample(engine)] == expected(number)
        assert len(list((tmp_path / "engine").iterdir())) == 1
    added = notes(tmp_path, "add")
    assert [note["number"] for note in added] == [1, 2, 3]
    assert len({note["name"] for note in added}) == len({note["folder"] for note in added}) == 3
    assert all(note["files"] == ["weights"] for note in added)
    assert [note["number"] for note in notes(tmp_path, "remove")] == [1, 2]
    settings = notes(tmp_path, "start")[0]["settings"]
    assert (settings["enable_lora"], settings["max_lora_rank"]) == (True, 8)
    engine.close()
    assert not (tmp_path / "engine").exists() or not list((tmp_path / "engine").iterdir())


def test_all_weights_go_by_a_folder_through_our_extension(make: Make, tmp_path: Path) -> None:
    engine = make(kind="weights", sleep=2)
    sample(engine)
    sample(engine)
    assert notes(tmp_path, "start")[0]["settings"]["worker_extension_cls"].startswith("sgsd.rollout.vllm_extension")
    order = [note["what"] for note in notes(tmp_path)]
    load, rest = "sgsd_load_policy", ["sample", "sleep"]
    assert order == ["start", "sample", load, *rest, "wake", load, *rest]  # level 2 has forgotten the weights


@pytest.mark.parametrize("trouble", ["die 2", "fail 2", "less 2", "hang 2"])
def test_a_lost_engine_is_started_again_with_the_same_weights(trouble: str, make: Make, tmp_path: Path) -> None:
    engine = make(trouble, silence=1.0)
    engine.sync()
    first = engine.pid
    assert [c.token_ids for c in sample(engine)] == expected(1)
    assert engine.restarts == 1
    assert engine.pid != first
    assert first is not None
    assert not alive(first)
    one, two = notes(tmp_path, "add")
    assert (one["folder"], one["number"]) == (two["folder"], two["number"])
    counts = [note["count"] for note in notes(tmp_path, "sample")]
    assert counts == {"die 2": [1, 4, 1, 3], "less 2": [1, 4, 1, 1]}.get(trouble, [1, 4, 1, 4])


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("die! 2", "while sampling 4 rollouts it was ended by SIGKILL (2 tries)"),
        ("fail! 2", "it failed with RuntimeError: out of memory, or so (2 tries)"),
        ("hang! 2", "it said nothing for 0.5 s (2 tries)"),
        ("hang! 1", "while taking over the weights it said nothing for"),
        ("sleepless!", "while taking over the weights it said nothing for 3 s"),
    ],
)
def test_what_goes_on_failing_is_named_and_in_time(trouble: str, said: str, make: Make, tmp_path: Path) -> None:
    limits = {"hang! 1": 0.5, "sleepless!": 3.0}  # of a start that never ends; all others must get through it
    engine = make(trouble, silence=0.5, start=limits.get(trouble, 20.0), retries=1)
    begun = time.monotonic()
    with pytest.raises(EngineError) as caught:
        sample(engine)  # with a sync before it
    assert time.monotonic() - begun < 60
    message = str(caught.value)
    assert message.startswith("rollout.engine vllm: ")
    assert said in message
    assert " s into the call; none of the troubles known" in message
    assert message.endswith(f"see {tmp_path / 'vllm.log'}, mend it, and go on by --resume")
    assert "\n" not in message
    assert engine.pid is None
    assert not any(alive(note["pid"]) for note in notes(tmp_path))


def test_known_troubles_are_named(make: Make) -> None:
    engine = make("die! 2", retries=0)
    engine.sync()
    engine.dtype = "bfloat16"
    with pytest.raises(EngineError, match=r"prompts of about 5 tokens, and the shortest here has 5; set rollout.dtype"):
        sample(engine, [(1,) * 5, (1,) * 30])


def test_prompts_in_pieces_are_named(make: Make) -> None:
    with pytest.raises(
        EngineError, match=r"cannot read the prompts of seeded requests in pieces; start it with chunked"
    ):
        sample(make("offset! 2", retries=0))


def test_a_refusal_is_the_user_s_to_mend_and_is_not_tried_again(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        make("refuse").sync()
    assert not isinstance(caught.value, EngineError)
    assert "vLLM refuses some/model: head_dim=16 is not to my taste; vLLM on CPUs has no attention" in str(caught.value)
    assert len(notes(tmp_path, "start")) == 1


def test_old_keys_and_values_are_never_used(make: Make) -> None:
    with pytest.raises(EngineError, match="kept keys and values of the old weights"):
        make("remember!", retries=0).sync()


def test_a_prompt_that_leaves_no_room_is_refused(make: Make) -> None:
    with pytest.raises(UserError, match=r"rollout.max_model_len: a prompt of 64 tokens leaves no room in 64"):
        sample(make(), [(1,) * 64])


def test_without_vllm_it_says_how_to_get_it(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "vllm.py").write_text("raise ModuleNotFoundError(\"No module named 'vllm'\")")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"vLLM is not installed: pip install 'sgsd\[vllm\]'"):
        make().sync()


def test_the_process_ends_with_the_engine(make: Make, tmp_path: Path) -> None:
    settings = make().settings
    engine = VllmEngine(settings, Snapshots(tmp_path / "other", "adapter", save), str, frozenset([99]))
    engine.sync()
    pid = engine.pid
    assert pid is not None
    assert alive(pid)
    del engine
    gc.collect()
    assert not alive(pid)
    assert not (tmp_path / "other").exists()
