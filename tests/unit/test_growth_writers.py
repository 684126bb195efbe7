"""Writers in this process: an engine that samples, and vLLM, for which a module of the same shape stands in here."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sgsd.contexts.prompts import load_prompts
from sgsd.rollout import Sampling
from sgsd.skills import TEMPLATES, EngineWriter, Request, WriterClient, WriterFailure, WriterReply
from sgsd.skills.drafts import ExtractedMistakes, ExtractedSkills, schema_of
from sgsd.skills.writers.vllm_writer import STRICT_FORM, VllmWriter
from sgsd.types import Completion, UserError

ANSWER = json.dumps({"general_skills": [{"title": "t", "principle": "p", "when_to_apply": "w"}]})


class Letters:
    """A tokenizer: one token a letter."""

    chat_template = "plain"

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        assert options["add_generation_prompt"]
        mode = "think" if options["enable_thinking"] else "plain"
        return "|".join(message["content"] for message in messages) + f"|{mode}:"


@dataclass
class Recorder:
    """An engine that writes down what it is given."""

    batches: list[tuple[list[str], list[int], Sampling, int]] = field(default_factory=list)

    def sample(
        self, prompts: Sequence[Sequence[int]], indices: Sequence[int], sampling: Sampling, *, seed: int
    ) -> list[Completion]:
        texts = ["".join(map(chr, prompt)) for prompt in prompts]
        self.batches.append((texts, list(indices), sampling, seed))
        return [Completion(i, (1, 2, 3), text.upper(), "stop") for i, text in zip(indices, texts)]

    def sync(self) -> None:
        pass


def ask_for(text: str, max_tokens: int = 10) -> Request:
    return Request((("user", text),), ExtractedSkills, max_tokens)


def writer_on(engine: Recorder, **changes: Any) -> EngineWriter:
    return EngineWriter(engine, Letters(), "weights", **changes)


def test_an_engine_writes_batch_by_batch_and_what_is_too_long_fails() -> None:
    engine = Recorder()
    requests = [ask_for("a"), ask_for("b" * 40), ask_for("c"), ask_for("d", max_tokens=12)]
    found = dict(writer_on(engine, context=30, batch=2, seed=5).write(requests))
    assert found[1] == WriterFailure("a prompt of more than 30 tokens with its answer")
    assert {n: reply for n, reply in found.items() if n != 1} == {
        n: WriterReply(f"{letter}|PLAIN:", 8, 3) for n, letter in ((0, "A"), (2, "C"), (3, "D"))
    }
    assert [texts for texts, *_ in engine.batches] == [["a|plain:", "c|plain:"], ["d|plain:"]]
    assert [(sampling.max_tokens, sampling.temperature, seed) for *_, sampling, seed in engine.batches] == [
        (10, 0.0, 5),
        (12, 0.0, 5),
    ]


def test_a_draw_belongs_to_its_request_and_not_to_its_batch() -> None:
    """A resumed build asks for less at a time, and must draw the same."""
    requests = [ask_for(letter) for letter in "abc"]
    together, alone = Recorder(), Recorder()
    list(writer_on(together, sampling=Sampling(temperature=1.0)).write(requests))
    for request in reversed(requests):
        list(writer_on(alone, sampling=Sampling(temperature=1.0)).write([request]))
    drawn = dict(zip(together.batches[0][0], together.batches[0][1]))
    assert drawn == {texts[0]: indices[0] for texts, indices, *_ in alone.batches}
    assert len(set(drawn.values())) == 3
    assert all(0 <= index < 2**63 for index in drawn.values())


def test_thinking_is_handed_to_the_template() -> None:
    engine = Recorder()
    list(writer_on(engine, thinking=True).write([ask_for("a")]))
    assert engine.batches[0][0] == ["a|think:"]


def test_settings_that_change_the_answers_change_the_name() -> None:
    changes: list[dict[str, Any]] = [{}, {"seed": 1}, {"thinking": True}]
    changes += [{"sampling": sampling} for sampling in (Sampling(), Sampling(top_p=0.5))]
    names = {writer_on(Recorder(), **change).name for change in changes}
    names.add(EngineWriter(Recorder(), Letters(), "other weights").name)
    assert len(names) == 6
    same = [writer_on(Recorder(), sampling=Sampling(temperature=0.0, max_tokens=n), batch=n).name for n in (1, 2)]
    assert same[0] == same[1] == writer_on(Recorder()).name


def test_a_desk_on_an_engine() -> None:
    class Answering(Recorder):
        def sample(self, *args: Any, **options: Any) -> list[Completion]:
            return [Completion(c.index, c.token_ids, ANSWER, "stop") for c in super().sample(*args, **options)]

    with writer_on(Answering()) as writer:
        (found,) = WriterClient(writer, load_prompts("growth", required=TEMPLATES)).ask([ask_for("q")])
    assert found is not None
    assert len(found.drafts) == 1


@dataclass
class FakeParams:
    temperature: float
    max_tokens: int
    seed: int | None
    structured_outputs: Any


class FakeLLM:
    """As vllm.LLM: it refuses a model, and a whole batch for one prompt that is too long."""

    made: FakeLLM

    def __init__(self, **options: Any) -> None:
        if options["model"] == "broken":
            raise ValueError("max_model_len is larger than the model's\nsecond line")
        self.options, self.batches, self.ended = options, list[int](), False
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=self.end))
        FakeLLM.made = self

    def end(self) -> None:
        self.ended = True

    def get_tokenizer(self) -> Letters:
        return Letters()

    def generate(self, prompts: list[dict[str, list[int]]], params: list[FakeParams], *, use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        self.batches.append(len(prompts))
        self.params = params
        for prompt, chosen in zip(prompts, params, strict=True):
            assert len(prompt["prompt_token_ids"]) + chosen.max_tokens <= self.options["max_model_len"]
        texts = ["".join(map(chr, prompt["prompt_token_ids"])).upper() for prompt in prompts]
        return [SimpleNamespace(outputs=[SimpleNamespace(text=text, token_ids=(1, 2))]) for text in texts]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module, params = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    errors = ModuleType("vllm.v1.engine.exceptions")
    errors.EngineDeadError = type("EngineDeadError", (Exception,), {})  # type: ignore[attr-defined]
    module.LLM = FakeLLM  # type: ignore[attr-defined]
    params.SamplingParams = FakeParams  # type: ignore[attr-defined]
    params.StructuredOutputsParams = lambda json: ("schema", json)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params)
    for package in ("vllm.v1", "vllm.v1.engine"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.exceptions", errors)


@pytest.mark.usefixtures("vllm")
def test_vllm_decodes_by_the_schema_of_each_request() -> None:
    with VllmWriter("m", "r1", 0.0, 30, batch=2) as writer:
        requests = [ask_for("a"), ask_for("b" * 40), ask_for("c"), Request((("user", "d"),), ExtractedMistakes, 12)]
        found = dict(writer.write(requests))
    assert found[1] == WriterFailure("a prompt of more than 30 tokens with its answer")
    assert [found[n] for n in (0, 2, 3)] == [WriterReply(f"{letter}|PLAIN:", 8, 2) for letter in "ACD"]
    made = FakeLLM.made
    assert made.options.pop("structured_outputs_config") == STRICT_FORM
    assert made.options == {"model": "m", "revision": "r1", "tokenizer_revision": "r1", "max_model_len": 30, "seed": 0}
    assert made.ended
    assert made.batches == [2, 1]
    assert made.params == [FakeParams(0.0, 12, None, ("schema", schema_of(ExtractedMistakes)))]


@pytest.mark.usefixtures("vllm")
def test_vllm_draws_by_request_and_lets_a_model_think() -> None:
    requests = [ask_for("a"), ask_for("b")]
    seeds = []
    for seed in (0, 0, 1):
        list(VllmWriter("m", None, 0.7, 30, thinking=True, seed=seed).write(requests))
        seeds.append([params.seed for params in FakeLLM.made.params])
        assert [params.structured_outputs for params in FakeLLM.made.params] == [None, None]
    assert seeds[0] == seeds[1] != seeds[2]
    assert seeds[0][0] != seeds[0][1]
    names = {VllmWriter("m", revision, heat, thinking=think).name for revision, heat, think in
             ((None, 0.0, False), ("r", 0.0, False), (None, 1.0, False), (None, 0.0, True))}  # fmt: skip
    assert len(names) == 4


@pytest.mark.usefixtures("vllm")
def test_a_model_that_vllm_refuses_is_the_users_to_mend() -> None:
    with pytest.raises(
        UserError, match=r"vLLM refuses broken with writer\.max_model_len 30: max_model_len is larger"
    ) as caught:
        VllmWriter("broken", context=30)
    assert "\n" not in str(caught.value)


def test_without_vllm_the_command_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"pip install 'sgsd\[vllm\]'"):
        VllmWriter("m")
