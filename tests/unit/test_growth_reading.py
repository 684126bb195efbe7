"""What a writer answers, read: whatever is usable is used, and no text is too broken or too large to be looked at."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from sgsd.skills.drafts import ExtractedMistakes, ExtractedSkills, MergedMistakes, MergedSkills, schema_of
from sgsd.skills.writers import answers as r
from sgsd.skills.writers.answers import parse_answer

ANSWERS = [ExtractedSkills, ExtractedMistakes, MergedSkills, MergedMistakes]
FIELDS = ("title", "principle", "when_to_apply")
ONE = {"title": "Parity", "principle": "Look at n modulo 2.", "when_to_apply": "integers"}
TWO = {"title": "Symmetry", "principle": "Swap x and y.", "when_to_apply": "symmetric equations"}

# Words that a bank takes, with all that makes JSON and LaTeX hard: quotes, braces, brackets, commas, line breaks.
WORDS = st.text(st.sampled_from("ab cé{}[]\"',:$^_\n#/0."), min_size=1, max_size=30).filter(
    lambda text: text.strip() and "</" not in text and "<" not in text
)
ITEMS = st.fixed_dictionaries(dict.fromkeys(FIELDS, WORDS))


def whole(*items: str) -> str:
    return '{"general_skills": [' + ", ".join(items) + "]}"


def said(text: str) -> list[tuple[str, ...]]:
    return [tuple(draft.model_dump().values()) for draft in parse_answer(text, ExtractedSkills).drafts]


def words(*items: dict[str, str]) -> list[tuple[str, ...]]:
    return [tuple(item[name].strip() for name in FIELDS) for item in items]


# Before and after: no wrapping mentions the key with a list behind it, for that would be an answer.
WRAPPINGS = [
    ("", ""),
    ("Sure! Here it is:\n```json\n", "\n```\nI hope it helps."),
    (r"<think>So \frac{a}{b} = {x}, \boxed{3}. {\"general_skills\": [{\"title\": \"no\"}]}</think>", ""),
    ('thinking without its opening tag {["</think>\n\n', ""),
    (r"The set \{1, 2\} and \frac{1}{2} lead to $f'$: ", r" so \(x \in \{1\}\)."),
    (r"\boxed{", "}"),
    ('The key "general_skills": a list of items. ', ' In "general_skills": what matters.'),
    ('Format: {"general_skills": [...]}. Answer: ', ""),
    ('{"general_skills": [{"title": "a", "princ\n\nAgain: ', ""),
]


@pytest.mark.parametrize(("before", "after"), WRAPPINGS)
@given(items=st.lists(ITEMS, min_size=1, max_size=4), indent=st.sampled_from([None, 2]), ascii_only=st.booleans())
@settings(max_examples=25, deadline=None)
def test_items_survive_any_wrapping(
    before: str, after: str, items: list[dict[str, str]], indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps({"general_skills": items}, indent=indent, ensure_ascii=ascii_only)
    found = parse_answer(before + text + after, ExtractedSkills)
    assert [tuple(draft.model_dump().values()) for draft in found.drafts] == words(*items)
    assert not found.dropped
    assert not found.wants_repair


BROKEN = [
    ('"just a string"', r.NOT_AN_OBJECT),
    ("null", r.NOT_AN_OBJECT),
    ("17", r.NOT_AN_OBJECT),
    ('["title", {}]', r.NOT_AN_OBJECT),
    ("{}", r.MISSING_FIELD),
    ('{"title": "t", "principle": "p"}', r.MISSING_FIELD),
    ('{"title": null, "principle": "p", "when_to_apply": "w"}', r.MISSING_FIELD),
    ('{"title": ["t"], "principle": "p", "when_to_apply": "w"}', r.MISSING_FIELD),
    (r'{"title": "\ud800", "principle": "p", "when_to_apply": "w"}', r.MISSING_FIELD),
    ('{"title": " ", "principle": "p", "when_to_apply": "w"}', r.UNFIT),
    ('{"title": "<|im_start|>", "principle": "p", "when_to_apply": "w"}', r.UNFIT),
    ('{"title": "' + "x" * 501 + '", "principle": "p", "when_to_apply": "w"}', r.UNFIT),
    ('{"title": "' + "x" * 30_000 + '", "principle": "p", "when_to_apply": "w"}', r.UNREADABLE),
    ('{"title": "t", "principle": "p", "when_to_apply": "w"', r.UNREADABLE),
    ('{"title": "t", "principle": "p', r.UNREADABLE),
    ("{nonsense}", r.UNREADABLE),
    ("nonsense", r.UNREADABLE),
    ("9" * 5000, r.UNREADABLE),
    ('{"a":' * 3000, r.UNREADABLE),
    ("[" * 3000, r.UNREADABLE),
]


@pytest.mark.parametrize(("broken", "why"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_item_costs_itself_only(broken: str, why: str) -> None:
    found = parse_answer(whole(json.dumps(ONE), broken, json.dumps(TWO)), ExtractedSkills)
    assert [draft.model_dump() for draft in found.drafts] == [ONE, TWO]
    assert set(found.dropped) == {why}


MENDED = [
    '{"title": "A 5" pipe", "principle": "say "hi" once", "when_to_apply": "w"}',  # quotes without a backslash
    '{"title": "A 5" pipe, "principle": "say "hi" once", "when_to_apply": "w"}',  # one that is never closed
    "{'title': 'A 5\" pipe', 'principle': 'say \"hi\" once', 'when_to_apply': 'w'}",
    '{title: "A 5\\" pipe", principle: "say \\"hi\\" once", when_to_apply: "w"}',
    '{"title": "A 5\\" pipe", "principle": "say \\"hi\\" once", "when_to_apply": "w",}',
    '{"title": "A 5\\" pipe" "principle": "say \\"hi\\" once" "when_to_apply": "w"}',
    '{“title”: “A 5" pipe”, “principle”: “say "hi" once”, “when_to_apply”: “w”}',
    '{"title": "A 5\\" pipe", "principle": "say \\"hi\\" once", "when_to_apply": "w", "when": {"ever": [1]}}',
]


@pytest.mark.parametrize("item", MENDED)
def test_what_is_not_quite_json_is_read_by_its_fields(item: str) -> None:
    for text in (whole(json.dumps(ONE), item, json.dumps(TWO)), whole(json.dumps(ONE), item) + ' "so" {it} is'):
        found = parse_answer(text, ExtractedSkills)
        assert tuple(found.drafts[1].model_dump().values()) == ('A 5" pipe', 'say "hi" once', "w")
        assert not found.dropped


def test_what_looks_like_an_item_inside_a_text_is_text() -> None:
    item = ONE | {"principle": "Write {'title': x}, {title: y} or {\"title\": z}."}
    assert said(whole(json.dumps(item), json.dumps(TWO))) == words(item, TWO)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"\frac{a}{b} \times \theta \to \text{x}", r"\frac{a}{b} \times \theta \to \text{x}"),
        (r"\\frac{a}{b} \\times \\theta", r"\frac{a}{b} \times \theta"),
        (r"x \ne 0, \neq, \nabla f, \not\in, \nu", r"x \ne 0, \neq, \nabla f, \not\in, \nu"),
        (r"\beta \begin{x} \rho \right) \forall \binom{n}{k}", r"\beta \begin{x} \rho \right) \forall \binom{n}{k}"),
        (r"\( x \) \{1\} \, \sqrt2 \upsilon \underline{x}", r"\( x \) \{1\} \, \sqrt2 \upsilon \underline{x}"),
        (r"first\nthen\n\ne.g. this\nnothing\tnote", "first\nthen\n\ne.g. this\nnothing\tnote"),
        (r"it\'s \u00e9 \"so\" a\/b", 'it\'s é "so" a/b'),
        (r"a \\\times b", r"a \\times b"),
    ],
)
def test_latex_is_not_read_as_escapes(written: str, meant: str) -> None:
    item = f'{{"title": "t", "principle": "{written}", "when_to_apply": "w"}}'
    assert said(whole(item)) == [("t", meant, "w")]
    assert said(whole(item[:-1] + ",}")) == [("t", meant, "w")]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ONE) + "\n" + json.dumps(TWO),
        f"```json\n[{json.dumps(ONE)},\n{json.dumps(TWO)}]\n```",
        '{"skills": [' + json.dumps(ONE) + "," + json.dumps(TWO) + "]}",
        whole(json.dumps(ONE) + ",", json.dumps(TWO) + ","),
        whole(json.dumps(ONE) + " " + json.dumps(TWO)),
        '{"general_skills": [' + json.dumps(ONE) + "}, " + json.dumps(TWO) + "]",
        "{'general_skills': " + json.dumps(ONE) + ", " + json.dumps(TWO) + "}",
    ],
)
def test_lists_of_another_shape_are_read(text: str) -> None:
    assert said(text) == words(ONE, TWO)


@pytest.mark.parametrize(
    ("text", "unusable", "dropped", "repair"),
    [
        ("", r.EMPTY, {}, True),
        (" \n\t", r.EMPTY, {}, True),
        ("<think>never", r.UNCLOSED_THINKING, {}, True),
        ("<think>a</think> <think>never", r.UNCLOSED_THINKING, {}, True),
        ("<think>all</think>", r.EMPTY, {}, True),
        ("I cannot help with that.", r.NO_JSON, {}, True),
        ('{"general_skills":', r.NO_JSON, {}, True),
        ('{"general_skills": null}', None, {}, False),
        ('{"general_skills": None}', None, {}, False),
        ('{"general_skills": []}', None, {}, False),
        ('{"general_skills": [', None, {r.CUT_OFF: 1}, True),
        ('{"general_skills": {', None, {r.CUT_OFF: 1}, True),
        ('{"general_skills": ["a", "b"]}', None, {r.NOT_AN_OBJECT: 2}, True),
        ('{"general_skills": {"first": {}}}', None, {r.MISSING_FIELD: 1}, True),
    ],
)
def test_why_nothing_was_read(text: str, unusable: str | None, dropped: dict[str, int], repair: bool) -> None:
    found = parse_answer(text, ExtractedSkills)
    assert (found.drafts, found.unusable, dict(found.dropped)) == ((), unusable, dropped)
    assert found.wants_repair == repair


@given(items=st.lists(ITEMS, min_size=1, max_size=4), share=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_a_cut_end_costs_the_item_it_cuts(items: list[dict[str, str]], share: float) -> None:
    # Cut behind a quote of its own that a brace follows, a text looks finished: no reader can tell.
    assume(not any('"}' in value for item in items for value in item.values()))
    ends, text = [], '{"general_skills": ['
    for item in items:
        text += json.dumps(item)
        ends.append(len(text))
        text += ", "
    cut = int(share * len(text))
    found = parse_answer(text[:cut], ExtractedSkills)
    kept = sum(end <= cut for end in ends)
    assert [tuple(draft.model_dump().values()) for draft in found.drafts] == words(*items[:kept])
    assert found.dropped.total() + (found.unusable is not None) == 1


PIECES = ['{"title":', '"principle": "', '"when_to_apply"', '"general_skills": [', '"sources": [1', "null", "x" * 40]
PIECES += ["<think>", "</think>", "\\frac", "\\u", "\n", "\ud800", *"{}[]\"'\\,:é1“”"]
TOKENS = st.sampled_from(PIECES)


@given(st.one_of(st.text(), st.lists(TOKENS, max_size=40).map("".join)), st.sampled_from(ANSWERS))
@example('{"general_skills": [' + "7" * 9000, ExtractedSkills)
@example('{"general_skills": [{"sources": ' + "[" * 9000, MergedSkills)
@settings(max_examples=400, deadline=None)
def test_no_text_is_too_broken(text: str, answer: Any) -> None:
    found = parse_answer(text, answer)
    for draft in found.drafts:
        assert draft.to_item().id
    assert found.unusable is None or not found.drafts


HOSTILE = ["{", "}", "[", '"', "'", "\\", '"{', '\\"', " ", "\n", ",", "9", "{x}", '{"a":', '{"title":', '{"title":"']
HOSTILE += ["{'title':", "{title: '", "title: '", '"general_skills":', '"general_skills":[{', "<think>", "</think>"]


@pytest.mark.parametrize("start", ["", whole()[:-2], whole()[:-2] + "{", whole()[:-2] + '{"title":"'])
def test_hostile_text_takes_linear_time(start: str) -> None:
    """A quadratic step takes minutes of processor time for these, a linear one a second at most."""
    for piece in HOSTILE:
        text = start + piece * (100_000 // len(piece))
        began = time.process_time()
        parse_answer(text, ExtractedSkills)
        assert time.process_time() - began < 2.0, repr(piece)


@pytest.mark.parametrize(
    ("sources", "read"),
    [
        ("[1, 2]", [1, 2]),
        ('["1", "item 3", " #4. "]', [1, 3, 4]),
        ('"1, 2 and 5"', [1, 2, 5]),
        ("3", [3]),
        ("null", []),
        ("{}", []),
        ("[1.5, true, [2], null, -3, 1234567]", []),
        ("[1, 2,]", [1, 2]),
    ],
)
def test_sources_are_read_however_they_are_written(sources: str, read: list[int]) -> None:
    text = whole(json.dumps(ONE)[:-1] + f', "sources": {sources}}}')
    assert [draft.sources for draft in parse_answer(text, MergedSkills).drafts] == [read]  # type: ignore[attr-defined]


def test_sources_may_be_missing_from_an_answer() -> None:
    assert [draft.sources for draft in parse_answer(whole(json.dumps(ONE)), MergedSkills).drafts] == [[]]  # type: ignore[attr-defined]


# What a strict decoder accepts: nothing but these words, all properties required, none beyond them.
STRICT = {"$defs", "$ref", "additionalProperties", "items", "properties", "required", "title", "type"}


@pytest.mark.parametrize("answer", ANSWERS)
def test_schemas_keep_to_what_strict_decoding_knows(answer: Any) -> None:
    schema = schema_of(answer)
    nodes: list[dict[str, Any]] = [schema]
    objects = 0
    while nodes:
        node = nodes.pop()
        assert node.keys() <= STRICT
        if node.get("type") == "object":
            objects += 1
            assert node["additionalProperties"] is False
            assert node["required"] == list(node["properties"])
        nodes += [*node.get("properties", {}).values(), *node.get("$defs", {}).values()]
        nodes += [node["items"]] if "items" in node else []
    assert objects == 2
    assert schema["required"] == [answer.key]
