"""The writer in this process, on a real engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from on_cpu import CONTEXT, ENGINE, in_this_process

from sgsd.lab.tiny_policy import POLICY_FOLDER
from sgsd.skills.drafts import ExtractedMistakes, ExtractedSkills
from sgsd.skills.writers.answers import parse_answer
from sgsd.skills.writers.base import Request, WriterFailure, WriterReply
from sgsd.skills.writers.vllm_writer import VllmWriter
from sgsd.types import UserError

pytest.importorskip("vllm", reason="vLLM has an environment of its own: make test-vllm")

DEAD = WriterFailure("vLLM's engine has died", dead=True)


def asks(number: int, tokens: int = 400) -> Request:
    text = f"A pupil wrote {number} + {number} = {2 * number}, and checked it twice. What can others learn from this?"
    return Request((("user", text),), ExtractedMistakes if number % 2 else ExtractedSkills, tokens)


def dies(*_: object, **__: object) -> None:
    """What `generate` does once the engine's process has been killed, and each time it is asked from then on."""
    from vllm.v1.engine.exceptions import EngineDeadError

    raise EngineDeadError


def test_it_answers_by_schema(writer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [asks(7), asks(8), asks(9, tokens=5000)]
    with in_this_process(), VllmWriter(str(writer_folder), context=CONTEXT, batch=2, options=ENGINE) as writer:
        found = dict(writer.write(requests))
        for request, reply in ((asks(n), found[n - 7]) for n in (7, 8)):
            assert isinstance(reply, WriterReply)
            reading = parse_answer(reply.text, request.answer)
            assert len(reading.drafts) == 1, reply.text
            assert not reading.dropped
            request.answer.model_validate_json(reply.text)  # to the letter: no reader's indulgence was needed
            assert reply.prompt_tokens > 40
            assert 40 < reply.completion_tokens < 400
        assert isinstance(found[2], WriterFailure)
        assert f"more than {CONTEXT} tokens" in found[2].reason
        alone = dict(writer.write(requests[:1]))
        assert alone[0] == found[0], "an answer depends on what else is asked"
        writer.temperature = 1.0
        warm = [dict(writer.write(chosen))[0] for chosen in ([requests[0]], [requests[0], asks(10), asks(11)])]
        assert warm[0] == warm[1] != found[0], "a draw belongs to its request"
        monkeypatch.setattr(writer._llm, "generate", dies)
        assert dict(writer.write(requests)) == {0: DEAD, 1: DEAD, 2: found[2]}


def test_what_vllm_refuses_is_one_line_for_the_user() -> None:
    with pytest.raises(UserError) as caught:
        VllmWriter(str(POLICY_FOLDER), context=8192, options=ENGINE)
    assert "writer.max_model_len 8192: User-specified max_model_len (8192) is greater than" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no_such_option"):
        VllmWriter(str(POLICY_FOLDER), context=512, options={"no_such_option": 1})
