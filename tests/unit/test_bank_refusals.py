"""Malformed banks: each is refused in one printable line that names the file, the item and the field."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bank_schema import good

from sgsd.bank import Bank, load_bank, parse_bank, schema
from sgsd.bank.text import MAX_META_CHARS
from sgsd.types import UserError


def refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_bank(text, "some.json")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("some.json: ")
    assert message.isprintable(), "a refusal must not carry what it refuses to the terminal"
    return message


SKILL, MISTAKE = ("general_skills", 1), ("common_mistakes", 2)
SKILL_AT, MISTAKE_AT = "general_skills[1] ('gen_1'), field ", "common_mistakes[2] ('err_2'), field "

# (name, where, field, new value, what the message must say after naming the item and the field)
BAD_FIELDS: list[tuple[str, tuple[str, int], str, Any, str]] = [
    ("empty", SKILL, "title", "", "is empty"),
    ("only spaces", SKILL, "principle", " \n\t ", "is empty"),
    ("null", MISTAKE, "how_to_avoid", None, "not null"),
    ("number", SKILL, "title", 7, "not a number"),
    ("float", SKILL, "title", 7.5, "not a number"),
    ("boolean", SKILL, "when_to_apply", True, "not a boolean"),
    ("list", MISTAKE, "description", ["a"], "not a list"),
    ("object", MISTAKE, "why_it_happens", {"a": 1}, "not an object"),
    ("100 kB title", SKILL, "title", "x" * 102_400, "102,400 characters"),
    ("100 kB body", MISTAKE, "how_to_avoid", "x" * 102_400, "102,400 characters"),
    ("title of 501", SKILL, "title", "x" * 501, "at most 500"),
    ("description of 501", MISTAKE, "description", "x" * 501, "at most 500"),
    ("body of 4,001", SKILL, "principle", "x" * 4_001, "at most 4,000"),
    ("chat token", SKILL, "title", "<|im_start|>system", "'<|im_start|>'"),
    ("any bar token", MISTAKE, "how_to_avoid", "see <|reserved_special_token_17|>", "control token"),
    ("one-sided bar token", SKILL, "title", "<|turn>user", "control token"),
    ("full-width bar token", SKILL, "title", "<｜User｜>", "control token"),
    ("full-width brackets", SKILL, "title", "＜|im_end|＞", "control token"),
    ("think", SKILL, "principle", "a <think> b", "'<think>'"),
    ("end of think", SKILL, "principle", "a </think> b", "'</think>'"),
    ("capital think", SKILL, "principle", "a <THINK> b", "control token"),
    ("sentence start", MISTAKE, "why_it_happens", "<s>", "'<s>'"),
    ("sentence end", MISTAKE, "why_it_happens", "done</s>", "'</s>'"),
    ("inst", SKILL, "when_to_apply", "[INST] do", "'[INST]'"),
    ("end of inst", SKILL, "when_to_apply", "do [/INST]", "'[/INST]'"),
    ("sys", SKILL, "when_to_apply", "<<SYS>> do", "control token"),
    ("tool call", SKILL, "when_to_apply", "<tool_call>", "'<tool_call>'"),
    ("tool calls", SKILL, "when_to_apply", "[TOOL_CALLS]", "control token"),
    ("gemma turn", SKILL, "title", "<start_of_turn>model", "'<start_of_turn>'"),
    ("sentencepiece", SKILL, "title", "▁<extra", "control token"),
    ("byte token", SKILL, "title", "<0x0A>", "'<0x0A>'"),
    ("sentinel", SKILL, "title", "<extra_id_0>", "control token"),
    ("a delimiter of ours", SKILL, "title", "</skill>", "control token"),
    ("thinking switch", SKILL, "title", "solve it /no_think", "control token"),
    ("escape code", MISTAKE, "description", "\x1b[31mred", "U+001B"),
    ("null byte", MISTAKE, "description", "a\x00b", "U+0000"),
    ("carriage return", MISTAKE, "description", "a\rb", "U+000D"),
    ("delete", MISTAKE, "description", "a\x7fb", "U+007F"),
    ("C1", MISTAKE, "description", "a\x9bb", "U+009B"),
    ("bidi override", MISTAKE, "description", "a\u202eb", "U+202E"),
    ("bidi isolate", MISTAKE, "description", "a\u2066b", "U+2066"),
    ("zero-width space", MISTAKE, "description", "a\u200bb", "U+200B"),
    ("zero-width joiner", MISTAKE, "description", "a\u200db", "U+200D"),
    ("byte order mark", MISTAKE, "description", "a\ufeffb", "U+FEFF"),
    ("line separator", MISTAKE, "description", "a\u2028b", "U+2028"),
    ("tag character", MISTAKE, "description", "a\U000e0041b", "U+E0041"),
    ("lone surrogate", MISTAKE, "description", "a\ud800b", "U+D800"),
    ("unknown key", SKILL, "priority", 3, "not part of the format"),
    ("key of the other kind", SKILL, "description", "x", "not part of the format"),
    ("meta that is a list", SKILL, "meta", [], "must be an object"),
    ("meta that is null", SKILL, "meta", None, "must be an object"),
    ("token in meta", SKILL, "meta", {"a": ["<|im_end|>"]}, "at ['a'][0] has the control token"),
    ("token in a key of meta", SKILL, "meta", {"<|im_end|>": 1}, "has a key that has the control token"),
    ("escape in meta", MISTAKE, "meta", {"a": "\x1b"}, "U+001B"),
    ("long meta", MISTAKE, "meta", {"a": "x" * MAX_META_CHARS}, "16,"),
    ("deep meta", MISTAKE, "meta", {"a": json.loads("[" * 40 + "]" * 40)}, "nested"),
    ("huge number in meta", MISTAKE, "meta", {"a": 10**400}, "401 digits"),
]


@pytest.mark.parametrize(
    ("where", "field", "value", "says"), [c[1:] for c in BAD_FIELDS], ids=[c[0] for c in BAD_FIELDS]
)
def test_a_bad_field_is_refused_by_item_and_field(where: tuple[str, int], field: str, value: Any, says: str) -> None:
    record = good()
    record[where[0]][where[1]][field] = value
    message = refusal(json.dumps(record))
    assert (SKILL_AT if where == SKILL else MISTAKE_AT) + repr(field) in message
    assert says in message


BAD_IDS: list[tuple[str, Any, str]] = [
    ("empty", "", "is empty"),
    ("spaces", "  ", "is empty"),
    ("number", 1, "not a number"),
    ("null", None, "not null"),
    ("129 characters", "x" * 129, "at most 128"),
    ("two lines", "gen\n1", "U+000A"),
    ("space at the end", "gen_1 ", "space at its ends"),
    ("token", "<|im_start|>", "control token"),
    ("repeats a skill", "gen_0", "repeats the id of general_skills[0]"),
]


@pytest.mark.parametrize(("value", "says"), [c[1:] for c in BAD_IDS], ids=[c[0] for c in BAD_IDS])
def test_a_bad_id_is_refused_by_position(value: Any, says: str) -> None:
    record = good()
    record["general_skills"][1]["skill_id"] = value
    message = refusal(json.dumps(record))
    assert message.startswith("some.json: general_skills[1]")
    assert "field 'skill_id' " in message
    assert says in message


def test_an_id_is_unique_over_skills_and_mistakes() -> None:
    record = good()
    record["common_mistakes"][2]["mistake_id"] = "gen_1"
    message = refusal(json.dumps(record))
    assert "common_mistakes[2] ('gen_1'), field 'mistake_id' repeats the id of general_skills[1]" in message


@pytest.mark.parametrize("field", ["skill_id", "title", "principle", "when_to_apply"])
def test_a_missing_field_is_named(field: str) -> None:
    record = good()
    del record["general_skills"][1][field]
    message = refusal(json.dumps(record))
    assert "general_skills[1]" in message
    assert f"field {field!r} is missing" in message


# What can be wrong with any text of any item, and the value that makes it so; ... takes the key away.
ANY_TEXT: list[tuple[str, Any]] = [
    ("missing", ...),
    ("null", None),
    ("a number", 7),
    ("a boolean", False),
    ("a list", ["a"]),
    ("an object", {"a": "b"}),
    ("empty", ""),
    ("only spaces", " \n\t "),
    ("100 kB", "x" * 102_400),
    ("a chat token", "<|im_start|>system"),
    ("the end of a thought", "a </think> b"),
    ("a tool call", "<tool_call>"),
    ("an escape code", "\x1b[2J"),
    ("a bidi override", "a\u202eb"),
    ("half a character", "a\ud800b"),
]
FIELDS = {
    SKILL: ("skill_id", "title", "principle", "when_to_apply"),
    MISTAKE: ("mistake_id", "description", "why_it_happens", "how_to_avoid"),
}


def malformed() -> dict[str, str]:
    """Banks with one thing wrong with one field of one item, by name; no two of them the same."""
    wrong = [(f"{field} {name}", where, field, value) for name, where, field, value, _ in BAD_FIELDS]
    wrong += [(f"skill_id {name}", SKILL, "skill_id", value) for name, value, _ in BAD_IDS]
    every = [(where, field) for where, fields in FIELDS.items() for field in fields]
    wrong += [(f"{field} {name}", where, field, value) for where, field in every for name, value in ANY_TEXT]
    banks: dict[str, str] = {}
    for name, (section, position), field, value in wrong:
        record = good()
        item = record[section][position]
        item[field] = value
        if value is ...:
            del item[field]
        banks.setdefault(json.dumps(record), name)
    return {name: text for text, name in banks.items()}


MALFORMED = malformed()


@pytest.mark.parametrize("name", MALFORMED)
def test_whatever_is_wrong_with_an_item_the_item_and_the_field_are_named(name: str) -> None:
    message = refusal(MALFORMED[name])
    assert re.match(r"some\.json: (general_skills\[1\]|common_mistakes\[2\])[ ,:]", message)
    assert f"field {name.split()[0]!r} " in message


def test_more_than_a_hundred_different_malformed_banks_are_tried() -> None:
    assert len(set(MALFORMED.values())) == len(MALFORMED) >= 100


BAD_SHAPES: list[tuple[str, dict[str, Any], str]] = [
    ("skills null", {"general_skills": None}, "field 'general_skills' must be a list of items, not null"),
    ("skills an object", {"general_skills": {}}, "field 'general_skills' must be a list of items, not an object"),
    ("mistakes a string", {"common_mistakes": "none"}, "field 'common_mistakes' must be a list of items"),
    ("an item that is null", {"common_mistakes": [None]}, "common_mistakes[0] must be an object, not null"),
    ("an item that is text", {"general_skills": ["add"]}, "general_skills[0] must be an object, not a string"),
    ("task skills", {"task_specific_skills": {"algebra": []}}, "field 'task_specific_skills' must be {}"),
    ("task skills null", {"task_specific_skills": None}, "field 'task_specific_skills' must be {}"),
    ("metadata a list", {"metadata": []}, "field 'metadata' must be an object"),
    ("surrogate in metadata", {"metadata": {"a": "\udc00"}}, "field 'metadata' at ['a'] has the unseen character"),
    ("misspelt section", {"general_skill": []}, "field 'general_skill' is not part of the format"),
]


@pytest.mark.parametrize(("change", "says"), [c[1:] for c in BAD_SHAPES], ids=[c[0] for c in BAD_SHAPES])
def test_a_bad_shape_is_refused_by_field(change: dict[str, Any], says: str) -> None:
    assert says in refusal(json.dumps(good() | change))


@pytest.mark.parametrize("section", ["general_skills", "common_mistakes"])
def test_both_lists_are_required(section: str) -> None:
    record = good()
    del record[section]
    assert f"field {section!r} is missing" in refusal(json.dumps(record))


TITLE = '"title": "Title 1"'
BAD_TEXTS = [
    ("key twice", TITLE, '"title": "a", "title": "b"', SKILL_AT + "'title' is given more than once"),
    ("id twice", '"skill_id": "gen_1"', '"skill_id": "gen_1", "skill_id": "x"', "field 'skill_id' is given more"),
    ("section twice", '"common_mistakes":', '"common_mistakes": [], "common_mistakes":', "'common_mistakes' is given"),
    (
        "metadata key twice",
        '"n": 1',
        '"n": 1, "n": 2',
        "field 'metadata' at ['layers'][0]['n'] is given more than once",
    ),
    ("NaN", TITLE, '"title": NaN', SKILL_AT + "'title' has the number NaN"),
    ("Infinity", '"x": 0.5', '"x": -Infinity', "field 'metadata' at ['layers'][0]['x'] has the number -Infinity"),
    ("overflow", '"x": 0.5', '"x": 1e999', "field 'metadata' at ['layers'][0]['x'] has the number 1e999"),
    ("5,000 digits", '"n": 1', f'"n": {"9" * 5000}', "at ['layers'][0]['n'] has a number of 5,000 digits"),
    ("trailing comma", TITLE + ",", TITLE + ",,", "is not JSON at line 1, column"),
    ("too deep", '"n": 1', '"n": ' + "[" * 100_000 + "]" * 100_000, "nested too deep"),
]


@pytest.mark.parametrize(("old", "new", "says"), [c[1:] for c in BAD_TEXTS], ids=[c[0] for c in BAD_TEXTS])
def test_what_is_not_json_is_refused_where_it_stands(old: str, new: str, says: str) -> None:
    text = json.dumps(good())
    assert text.count(old) == 1
    assert says in refusal(text.replace(old, new))


@pytest.mark.parametrize("text", ["", "[]", "null", '"bank"', "{", "3"])
def test_what_is_no_object_is_refused(text: str) -> None:
    refusal(text)


def test_several_problems_are_counted() -> None:
    record = good()
    record["general_skills"][0]["title"] = record["general_skills"][1]["title"] = ""
    assert "(the first of 2 problems)" in refusal(json.dumps(record))


def test_too_many_items_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert schema.MAX_ITEMS == 100_000
    monkeypatch.setattr(schema, "MAX_ITEMS", 5)
    assert "has 6 items, at most 5 are allowed" in refusal(json.dumps(good()))


def test_files_that_are_no_banks_are_refused_by_name(tmp_path: Path) -> None:
    big = tmp_path / "big.json"
    with open(big, "wb") as file:
        file.truncate(64 * 2**20 + 1)
    latin = tmp_path / "latin.json"
    latin.write_bytes('{"é": 1}'.encode("latin-1"))
    store = tmp_path / "store.json"
    store.write_bytes(b"SQLite format 3\x00" + bytes(100))
    for path, says in [
        (big, "larger than 64 MB"),
        (latin, "is not UTF-8 at byte 2"),
        (store, "export it first"),
        (tmp_path, "cannot be read"),
        (tmp_path / "absent.json", "cannot be read"),
    ]:
        with pytest.raises(UserError) as caught:
            load_bank(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert says in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet=st.sampled_from('{}[]":,0123456789eE.-+ntrufalse \\"ud8') | st.characters(), max_size=60))
def test_any_text_is_a_bank_or_a_user_error(text: str) -> None:
    with suppress(UserError):
        assert isinstance(parse_bank(text, "some.json"), Bank)
