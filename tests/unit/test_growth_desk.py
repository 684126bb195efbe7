"""The desk: what is asked, what is kept, what it costs, and when enough is enough."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest

from sgsd.contexts.prompts import PromptSet, load_prompts
from sgsd.skills import (
    TEMPLATES,
    AnswerCache,
    Request,
    ScriptedWriter,
    WriterClient,
    WriterError,
    WriterFailure,
    WriterReply,
)
from sgsd.skills.drafts import ExtractedMistakes, ExtractedSkills, MergedSkills
from sgsd.types import UserError

GOOD = json.dumps({"general_skills": [{"title": "t", "principle": "p", "when_to_apply": "w"}]})
EMPTY_LIST = '{"general_skills": null}'
NONSENSE = r"<think>\frac{1}{2}</think> I would rather not."


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    return load_prompts("growth", required=TEMPLATES)


def ask_for(text: str) -> Request:
    return Request((("user", text),), ExtractedSkills, 100)


REQUESTS = [ask_for(f"question {number}") for number in range(20)]


def question(request: Request) -> int:
    return int(request.messages[0][1].split()[1])


@dataclass
class Replies:
    """A writer that gives these replies, in any order, and dies after a while if it is told to."""

    reply: Callable[[Request], WriterReply | WriterFailure]
    backwards: bool = False
    dies_after: int | None = None
    name: str = "replies"
    asked: list[Request] = field(default_factory=list)

    def write(self, requests: Sequence[Request]) -> Iterator[tuple[int, WriterReply | WriterFailure]]:
        numbered = list(enumerate(requests))
        for position, request in reversed(numbered) if self.backwards else numbered:
            if self.dies_after == len(self.asked):
                raise KeyboardInterrupt
            self.asked.append(request)
            yield position, self.reply(request)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def numbered(request: Request) -> WriterReply:
    text = GOOD.replace('"t"', f'"title {question(request)}"')
    return WriterReply(text, prompt_tokens=10, completion_tokens=3)


def titles(found: list) -> list[str | None]:
    return [reading.drafts[0].title if reading is not None else None for reading in found]


@pytest.mark.parametrize("backwards", [False, True])
def test_readings_come_in_the_order_of_the_requests(prompts: PromptSet, backwards: bool, tmp_path: Path) -> None:
    with AnswerCache(tmp_path / "answers") as cache:
        client = WriterClient(Replies(numbered, backwards), prompts, cache)
        assert titles(client.ask(REQUESTS)) == [f"title {n}" for n in range(20)]
        assert client.usage.to_dict() == {
            "calls": 20,
            "cached": 0,
            "repairs": 0,
            "prompt_tokens": 200,
            "completion_tokens": 60,
            "answers": 20,
            "retried": {},
            "failures": {},
            "dropped": {},
        }
        json.dumps(client.usage.to_dict())


def test_what_was_answered_is_never_asked_again(prompts: PromptSet, tmp_path: Path) -> None:
    for run in range(2):
        writer = Replies(numbered)
        with AnswerCache(tmp_path / "answers") as cache:
            assert len(cache) == 20 * run
            client = WriterClient(writer, prompts, cache)
            assert titles(client.ask(REQUESTS)) == [f"title {n}" for n in range(20)]
        assert (client.usage.calls, client.usage.cached, len(writer.asked)) == ((0, 20, 0) if run else (20, 0, 20))
    changes: list[tuple[str, list[Request]]] = [
        ("another model", REQUESTS),
        ("replies", [Request(q.messages, MergedSkills, 100) for q in REQUESTS]),
        ("replies", [Request(q.messages, q.answer, 101) for q in REQUESTS]),
    ]
    with AnswerCache(tmp_path / "answers") as cache:
        for name, requests in changes:
            writer = Replies(numbered, name=name)
            WriterClient(writer, prompts, cache).ask(requests)
            assert len(writer.asked) == 20


@pytest.mark.parametrize("alive", range(0, 27, 3))
def test_a_kill_between_two_answers_repeats_and_loses_nothing(prompts: PromptSet, alive: int, tmp_path: Path) -> None:
    """Every fourth answer is nonsense first, so that some kills fall among the repairs."""

    def reply(request: Request) -> WriterReply:
        broken = question(request) % 4 == 0 and len(request.messages) == 1
        return WriterReply(NONSENSE, 1, 1) if broken else numbered(request)

    straight = WriterClient(Replies(reply), prompts)
    expected = titles(straight.ask(REQUESTS))
    assert straight.usage.calls == 25
    dying, rest = Replies(reply, backwards=True, dies_after=min(alive, 24)), Replies(reply)
    with AnswerCache(tmp_path / "answers") as cache, pytest.raises(KeyboardInterrupt):
        WriterClient(dying, prompts, cache).ask(REQUESTS)
    with AnswerCache(tmp_path / "answers") as cache:
        client = WriterClient(rest, prompts, cache)
        assert titles(client.ask(REQUESTS)) == expected == [f"title {n}" for n in range(20)]
    asked = [request.identity() for request in dying.asked + rest.asked]
    assert len(asked) == len(set(asked)) == 25
    assert client.usage.cached == min(alive, 24)


def test_equal_requests_are_one_call(prompts: PromptSet, tmp_path: Path) -> None:
    """A second build would find one answer for both, so the first must not use two."""
    counter = iter(range(100))
    writer = Replies(lambda request: WriterReply(GOOD.replace('"t"', f'"draw {next(counter)}"'), 5, 5))
    same = [ask_for("question 1"), ask_for("question 2"), ask_for("question 1")]
    done: list[int] = []
    with AnswerCache(tmp_path / "answers") as cache:
        for run in range(2):
            client = WriterClient(writer, prompts, cache, on_answer=lambda: done.append(1))
            assert titles(client.ask(same)) == ["draw 0", "draw 1", "draw 0"]
            assert (client.usage.calls, client.usage.cached, client.usage.answers) == ((0, 3, 3) if run else (2, 1, 3))
            assert len(done) == 3 * (run + 1)


def test_an_unreadable_answer_is_shown_to_its_writer_once(prompts: PromptSet) -> None:
    def reply(request: Request) -> str:
        if len(request.messages) == 1:
            return NONSENSE
        return GOOD if question(request) % 2 else NONSENSE

    writer = ScriptedWriter(reply)
    client = WriterClient(writer, prompts, failure_budget=1.0)
    found = client.ask(REQUESTS[:6])
    assert titles(found) == [None, "t", None, "t", None, "t"]
    assert (client.usage.calls, client.usage.repairs, client.usage.answers) == (12, 6, 3)
    assert client.usage.failures == {"no JSON in it": 3}
    again = writer.calls[-1]
    assert [role for role, _ in again.messages] == ["user", "assistant", "user"]
    assert again.messages[0] == REQUESTS[5].messages[0]
    assert again.messages[1][1].strip() == "I would rather not."  # its thinking is no part of what must be mended
    for word in ("no JSON in it", "general_skills", "title, principle, when_to_apply"):
        assert word in again.messages[2][1]


def test_a_repair_that_is_worse_changes_nothing(prompts: PromptSet) -> None:
    one_broken = '{"general_skills": ["a", "b"]}'
    client = WriterClient(ScriptedWriter(lambda request: one_broken if len(request.messages) == 1 else ""), prompts)
    (found,) = client.ask(REQUESTS[:1])
    assert found is not None
    assert found.drafts == ()
    assert client.usage.dropped == {"an item that is no object": 2}
    assert (client.usage.answers, client.usage.repairs, client.usage.failures.total()) == (1, 1, 0)


def test_an_empty_list_is_an_answer_and_is_not_repaired(prompts: PromptSet) -> None:
    client = WriterClient(ScriptedWriter(lambda _: EMPTY_LIST), prompts)
    assert [reading.drafts for reading in client.ask(REQUESTS) if reading] == [()] * 20
    assert (client.usage.calls, client.usage.repairs, client.usage.answers) == (20, 0, 20)


def test_a_mixed_answer_gives_its_good_items_and_counts_the_others(prompts: PromptSet) -> None:
    text = '{"common_mistakes": [17, {"description": "d", "why_it_happens": "w", "how_to_avoid": "h"}, {"description"'
    client = WriterClient(ScriptedWriter(lambda _: text), prompts)
    (found,) = client.ask([Request((("user", "q"),), ExtractedMistakes, 10)])
    assert found is not None
    assert len(found.drafts) == 1
    assert client.usage.dropped == {"an item that is no object": 1, "an item cut off": 1}
    assert client.usage.repairs == 0


def failing(numbers: set[int], *, dead: bool = False) -> Callable[[Request], WriterReply | WriterFailure]:
    return lambda q: WriterFailure("status 503", ("status 503",) * 2, dead) if question(q) in numbers else numbered(q)


def test_failures_within_the_budget_are_counted_and_survived(prompts: PromptSet) -> None:
    client = WriterClient(Replies(failing({1, 5, 6, 7})), prompts)
    assert [n for n, reading in enumerate(client.ask(REQUESTS)) if reading is None] == [1, 5, 6, 7]
    assert client.usage.failures == {"status 503": 4}
    assert client.usage.retried == {"status 503": 8}
    assert client.usage.answers == 16


def test_failures_beyond_the_budget_stop_early_and_answers_are_kept(prompts: PromptSet, tmp_path: Path) -> None:
    with AnswerCache(tmp_path / "answers") as cache:
        writer = Replies(failing({2, 3, 5, 7, 8, 9, 10}))
        client = WriterClient(writer, prompts, cache)
        with pytest.raises(WriterError, match=r"replies failed 5 of 20 requests \(the last: status 503\), .* 20%"):
            client.ask(REQUESTS)
        assert len(writer.asked) == 9  # the fifth failure is one more than a fifth of 20
        assert client.usage.failures == {"status 503": 5}
        assert len(cache) == 4
        mended = Replies(numbered)
        assert titles(WriterClient(mended, prompts, cache).ask(REQUESTS)) == [f"title {n}" for n in range(20)]
        assert len(mended.asked) == 16


def test_a_dead_server_is_not_asked_for_everything(prompts: PromptSet) -> None:
    many = [ask_for(f"question {n}") for n in range(256)]
    writer = Replies(failing(set(range(256)), dead=True))
    with pytest.raises(WriterError):
        WriterClient(writer, prompts).ask(many)
    assert len(writer.asked) == 4
    once = Replies(failing({1, 2, 3, 4, 5, 6}, dead=True))  # alive at first: the budget decides, which is 51 of 256
    assert titles(WriterClient(once, prompts).ask(many)).count(None) == 6
    refused = Replies(failing({0, 1, 2, 3, 4, 5}))  # the first six are at fault themselves, and the server is fine
    assert titles(WriterClient(refused, prompts).ask(many)).count(None) == 6


def test_a_few_failures_stop_nothing_unless_nothing_else_came(prompts: PromptSet) -> None:
    client = WriterClient(Replies(failing({0, 1, 2})), prompts)
    assert titles(client.ask(REQUESTS[:4])) == [None, None, None, "title 3"]
    lucky = WriterClient(Replies(failing({0})), prompts)
    assert titles(lucky.ask(REQUESTS[:4])).count(None) == 1
    assert lucky.ask(REQUESTS[:1]) == [None]  # a later batch of one, as in the last layer of a merge
    with pytest.raises(WriterError, match="failed 1 of 1 requests"):
        WriterClient(Replies(failing({0})), prompts).ask(REQUESTS[:1])
    assert WriterClient(Replies(numbered), prompts).ask([]) == []


def test_failed_repairs_count_against_all_that_was_asked(prompts: PromptSet) -> None:
    """Six of 100 answers are nonsense, and the server is gone when they are to be mended: that is 6 %."""
    many = [ask_for(f"question {n}") for n in range(100)]

    def reply(request: Request) -> WriterReply | WriterFailure:
        if len(request.messages) > 1:
            return WriterFailure("status 500")
        return WriterReply(NONSENSE) if question(request) < 6 else numbered(request)

    client = WriterClient(Replies(reply), prompts)
    assert titles(client.ask(many)).count(None) == 6
    assert client.usage.failures == {"no JSON in it": 6}


def test_unreadable_answers_that_stopped_a_build_are_asked_for_again(prompts: PromptSet, tmp_path: Path) -> None:
    """Or the same command would stop for ever at what the cache holds."""
    with AnswerCache(tmp_path / "answers") as cache:
        bad = Replies(lambda q: WriterReply(NONSENSE, 1, 1) if question(q) < 10 else numbered(q))
        client = WriterClient(bad, prompts, cache)
        with pytest.raises(WriterError, match=r"10 × no JSON in it"):
            client.ask(REQUESTS)
        assert len(cache) == 10
        good = Replies(numbered)
        assert titles(WriterClient(good, prompts, cache).ask(REQUESTS)) == [f"title {n}" for n in range(20)]
        assert len(good.asked) == 10


def test_a_writer_that_forgets_a_request_is_counted(prompts: PromptSet) -> None:
    class Forgetful(Replies):
        def write(self, requests: Sequence[Request]) -> Iterator[tuple[int, WriterReply | WriterFailure]]:
            yield from ((n, reply) for n, reply in super().write(requests) if n != 3)

    client = WriterClient(Forgetful(numbered), prompts)
    assert titles(client.ask(REQUESTS[:5])) == ["title 0", "title 1", "title 2", None, "title 4"]
    assert client.usage.failures == {"no answer came back": 1}


def test_half_characters_reach_no_file_and_no_call(prompts: PromptSet, tmp_path: Path) -> None:
    request = Request((("user", "a \ud800 b"),), ExtractedSkills, 10)
    assert request.chat() == [{"role": "user", "content": "a ? b"}]
    writer = ScriptedWriter(lambda q: "\udfff" if len(q.messages) == 1 else GOOD)
    with AnswerCache(tmp_path / "answers") as cache:
        for _ in range(2):
            assert titles(WriterClient(writer, prompts, cache).ask([request])) == ["t"]
    assert len(writer.calls) == 2
    json.dumps(writer.calls[1].chat(), ensure_ascii=False).encode()


def test_a_cache_that_is_none_is_refused(prompts: PromptSet, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to be looked at as one" * 20)
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "text", tmp_path / "folder", tmp_path / "no" / "answers"):
        with pytest.raises(UserError, match="cannot hold a writer's answers") as caught:
            AnswerCache(path)
        assert "\n" not in str(caught.value)
    with AnswerCache(tmp_path / "answers") as cache:
        cache._run("DROP TABLE answers")
        with pytest.raises(UserError, match="cannot hold a writer's answers"):
            WriterClient(Replies(numbered), prompts, cache).ask(REQUESTS)


def test_no_question_stands_in_the_cache(prompts: PromptSet, tmp_path: Path) -> None:
    with AnswerCache(tmp_path / "answers") as cache:
        WriterClient(Replies(numbered), prompts, cache).ask([ask_for("question 1 with a secret in it")])
        assert len(cache) == 1
    assert b"secret" not in (tmp_path / "answers").read_bytes()
