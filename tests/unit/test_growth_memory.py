"""Memories: what was tried and how it ended, on disk through every kill, and never the reference answer."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsd.bank import BankStore
from sgsd.contexts.prompts import PromptSet, load_prompts
from sgsd.skills import (
    TEMPLATES,
    ExtractSettings,
    Memory,
    MemoryFile,
    Request,
    ScriptedWriter,
    WriterClient,
    extract,
    memory_of,
)
from sgsd.skills.drafts import ExtractedMistakes, ExtractedSkills
from sgsd.skills.extraction import TOO_MANY, extraction_request, shortened, strip_thinking
from sgsd.types import BankItem, Completion, Mistake, Problem, Rollout, Skill, Status, UserError, Verdict

GOLD, GOLD_SOLUTION, GOLD_META = "gold-7781", "because of gold-9912", "gold-3345"
PROBLEM = Problem("p1", "What is 2 + 2?", gold=GOLD, solution=GOLD_SOLUTION, meta={"answer": GOLD_META})


def rollout(text: str, index: int = 5) -> Rollout:
    return Rollout(PROBLEM, (1, 2), Completion(index, (3,), text, "stop"))


def memory(index: int, correct: bool = True, solution: str = "It is four.") -> Memory:
    return Memory(index, "p1", "What is 2 + 2?", solution, correct)


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    return load_prompts("growth", required=TEMPLATES)


def test_a_verdict_makes_a_memory_unless_nothing_is_known() -> None:
    right = memory_of(rollout("It is four."), Verdict(Status.CORRECT))
    wrong = memory_of(rollout("It is five."), Verdict(Status.INCORRECT, "5"))
    assert right == Memory(5, "p1", "What is 2 + 2?", "It is four.", True)
    assert wrong == Memory(5, "p1", "What is 2 + 2?", "It is five.", False)
    assert memory_of(rollout("It is four."), Verdict(Status.TIMEOUT)) is None
    assert memory_of(rollout("It is four."), Verdict(Status.UNPARSED)) is None
    assert memory_of(rollout(" \n"), Verdict(Status.INCORRECT)) is None


def test_the_id_is_what_was_tried_and_how_it_ended() -> None:
    assert memory(1).id == memory(2).id
    assert len({memory(1).id, memory(1, correct=False).id, memory(1, solution="\ud800").id}) == 3


@pytest.mark.parametrize("correct", [True, False])
def test_the_reference_answer_reaches_neither_memory_nor_writer_nor_bank(
    correct: bool, prompts: PromptSet, tmp_path: Path
) -> None:
    made = memory_of(rollout("It is four."), Verdict(Status.CORRECT if correct else Status.INCORRECT, "5"))
    assert made is not None
    answer = ExtractedSkills if correct else ExtractedMistakes
    item = dict.fromkeys(answer.draft.model_fields, "words")
    writer = ScriptedWriter(lambda q: "nothing" if len(q.messages) == 1 else json.dumps({answer.key: [item]}))
    result = extract([made], WriterClient(writer, prompts), ExtractSettings())
    assert len(result.proposals) == 1
    MemoryFile(tmp_path / "memories").append([(5, made)])
    with BankStore(tmp_path / "bank.db") as store:
        store.remember({made.id: asdict(made)})
    seen = [json.dumps([q.chat() for q in writer.calls]), repr(result), repr(made)]
    seen += [path.read_bytes().decode("latin-1") for path in tmp_path.iterdir()]
    assert len(writer.calls) == 2  # the repair too
    for text in seen:
        assert "gold" not in text


def test_memories_come_back(tmp_path: Path) -> None:
    file = MemoryFile(tmp_path / "memories.jsonl")
    assert (file.read(), file.next_index) == ([], 0)
    first = [(0, memory(0)), (1, None), (2, memory(2, False, 'tricky \u2028 \r\n\t "{}" é \ud800'))]
    file.append(first)
    file.append([(3, None)])
    file.append([])
    again = MemoryFile(tmp_path / "memories.jsonl")
    assert again.read() == [first[0][1], first[2][1]]
    assert again.next_index == 4


@given(cut=st.integers(0, 400), solution=st.text(min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_a_kill_in_the_middle_of_a_write_costs_unfinished_lines_only(cut: int, solution: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memories.jsonl"
        kept = [memory(n, n % 2 == 0, solution) for n in range(3)]
        MemoryFile(path).append([(n, m) for n, m in enumerate(kept)])
        whole = path.read_bytes()
        path.write_bytes(whole[:cut])
        left = whole[:cut].count(b"\n")
        file = MemoryFile(path)
        assert file.read() == kept[:left]
        assert file.next_index == left
        assert path.read_bytes() == whole[:cut]  # a reader takes nothing from a file that another may be writing
        file.append([(n, m) for n, m in enumerate(kept)][left:])
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"3",
        b"[1, 2]",
        b'{"index": "1"}',
        b'{"index": true}',
        b'{"name": 1}',
        b'{"index": 1, "problem_id": "p", "problem": "q", "solution": "s"}',
        b'{"index": 1, "problem_id": "p", "problem": "q", "solution": "s", "correct": 1}',
        b'{"index": 1, "problem_id": "p", "problem": null, "solution": "s", "correct": true}',
        b'{"index": 1, "problem_id": "p", "problem": "q", "solution": "s", "correct": true, "gold": "4"}',
        b"\xff\xfe",
        b"",
    ],
)
def test_a_line_that_is_no_memory_is_refused_and_named(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "memories.jsonl"
    file = MemoryFile(path)
    file.append([(0, memory(0))])
    path.write_bytes(path.read_bytes() + line + b"\n")
    for use in (file.read, lambda: file.next_index):
        with pytest.raises(UserError, match=r"memories\.jsonl, line 2: .*; move the file away") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        MemoryFile(tmp_path / "no" / "memories").append([(0, None)])
    with pytest.raises(UserError, match="cannot be read"):
        MemoryFile(tmp_path).read()


def test_each_outcome_has_a_question_of_its_own(prompts: PromptSet) -> None:
    settings = ExtractSettings(items=2, max_tokens=77)
    right, wrong = (extraction_request(memory(0, correct), prompts, settings) for correct in (True, False))
    assert (right.answer, wrong.answer) == (ExtractedSkills, ExtractedMistakes)
    assert right.max_tokens == wrong.max_tokens == 77
    for request in (right, wrong):
        ((role, text),) = request.messages
        assert role == "user"
        assert "What is 2 + 2?" in text
        assert "It is four." in text
        assert "at most 2 " in text
        assert "{{" not in text


def test_what_a_rollout_holds_is_never_read_as_a_template(prompts: PromptSet) -> None:
    solution = "{{ problem }} {% for x in [1] %} {# no #} {{ 1/0 }}"
    request = extraction_request(memory(0, solution=solution), prompts, ExtractSettings())
    assert solution in request.messages[0][1]


def test_thinking_is_left_out_and_a_long_solution_loses_its_middle(prompts: PromptSet) -> None:
    assert strip_thinking("<think>so { and </think>\n It is 4. ") == "It is 4."
    assert strip_thinking("<think>never ends ") == "<think>never ends"
    assert strip_thinking("<think>all</think>  ") == "<think>all</think>"
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("a" * 50 + "b" * 50, 20) == "a" * 10 + "\n[… 80 characters left out …]\n" + "b" * 10
    long = memory(0, solution="<think>" + "t" * 99 + "</think>" + "x" * 30 + "y" * 30)
    settings = ExtractSettings(max_chars=40)
    text = extraction_request(long, prompts, settings).messages[0][1]
    assert "[… 20 characters left out …]" in text
    assert "ttt" not in text
    done = extract(
        [long, memory(1)], WriterClient(ScriptedWriter(lambda _: '{"general_skills": []}'), prompts), settings
    )
    assert done.shortened == 1


def test_items_are_taken_up_to_the_number_asked_for_and_objections_are_counted(prompts: PromptSet) -> None:
    def reply(request: Request) -> str:
        skills = request.answer is ExtractedSkills
        fields = request.answer.draft.model_fields
        return json.dumps(
            {request.answer.key: [dict.fromkeys(fields, f"{'s' if skills else 'm'}{n}") for n in range(5)]}
        )

    def item_filter(item: BankItem, about: Memory) -> str | None:
        return f"no {item.title}" if isinstance(item, Skill) and item.title == "s1" and about.correct else None

    memories = [memory(0), memory(1, correct=False)]
    result = extract(memories, WriterClient(ScriptedWriter(reply), prompts), ExtractSettings(items=3), item_filter)
    assert [p.memories for p in result.proposals] == [(memories[0].id,)] * 2 + [(memories[1].id,)] * 3
    assert [type(p.item) for p in result.proposals] == [Skill] * 2 + [Mistake] * 3
    assert result.refused == {"no s1": 1, TOO_MANY: 4}
    assert extract([], WriterClient(ScriptedWriter(reply), prompts), ExtractSettings()).refused == {}


def test_the_same_memory_twice_is_asked_about_once(prompts: PromptSet) -> None:
    item = dict.fromkeys(ExtractedSkills.draft.model_fields, "words")
    writer = ScriptedWriter(lambda _: json.dumps({"general_skills": [item]}))
    result = extract([memory(0), memory(9)], WriterClient(writer, prompts), ExtractSettings())
    assert len(writer.calls) == 1
    assert len(result.proposals) == 2
