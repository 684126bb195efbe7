"""What every kind of prompt looks like, on small fixed problems, rollouts and a small fixed bank.

`rendered()` is all that the snapshots in prompts.json know of. Below the plain data the package itself is asked; a
change of its modules or names is followed there and nowhere else, and the file of snapshots stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sgsd.bank import load_bank
from sgsd.contexts import Graded
from sgsd.contexts.controls import control
from sgsd.contexts.prompt_builders import PromptBuilder
from sgsd.contexts.prompts import BUNDLED, load_prompts
from sgsd.rollout import ScriptedEngine
from sgsd.skills import TEMPLATES, ExtractSettings, Memory, MergeSettings, ScriptedWriter, WriterClient
from sgsd.skills.upkeep import UpkeepSettings, update_bank
from sgsd.train import make_config
from sgsd.train.context_resources import make_contexts
from sgsd.train.models import load_tokenizer
from sgsd.types import Completion, Problem, Rollout, Status, Verdict

SETS = ("lab", "math")  # the bundled prompt sets

# ── What is shown: plain data ──────────────────────────────────────────────────────────────────────────────────────

PROBLEMS: list[dict[str, Any]] = [
    {
        "id": "p1",
        "text": "Addition: 38 + 35",
        "gold": "73",
        "solution": "8+5=13, carry 1. 3+3+1=7.\n\\boxed{73}",
        "meta": {"rubric": "Carries the one."},
    },
    {"id": "p2", "text": "Bracket: 20-(7-3)", "gold": "16", "meta": {"rubric": ["Sign", {"weight": 2, "of": "é"}]}},
]
#: The training set that another problem is taken from.
OTHERS: list[dict[str, Any]] = [
    {"id": "o1", "text": "Remainder: 17 mod 5", "gold": "2", "solution": "3*5=15, so 17-15=2. \\boxed{2}"},
    {"id": "o2", "text": "Square: 12*12", "gold": "$1 44$"},
    {"id": "o3", "text": "Double minus: 9-(-4)", "gold": "13", "solution": "9+4. \\boxed{13}"},
    {"id": "o4", "text": "Addition: 44+29", "gold": "73"},
]
#: Each problem's rollouts: what was written, the verdict's status, and the answer that was read.
ROLLOUTS: dict[str, list[tuple[str, str, str | None]]] = {
    "p1": [
        ("8+5=13, 3+3=6, so \\boxed{63}", "incorrect", "63"),
        ("38+35=73. \\boxed{73}", "correct", "73"),
        ("<think>\nhm\n</think>\n\n40+35-2=73 \\boxed{73}<|im_end|>", "correct", "73"),
        ("I do not know.", "incorrect", None),
        ("<think>\nand so on", "incorrect", None),
    ],
    "p2": [
        ("20-7-3=10 \\boxed{10}", "incorrect", "10"),
        ("20-4=16 \\boxed{16}", "correct", "16"),
        ("7-3=4\n20-4=16\n\\boxed{16}", "correct", "16"),
        ("20-(7-3) \\boxed{20-(7-3)}", "timeout", None),
    ],
}
BANK: dict[str, Any] = {
    "general_skills": [
        {"skill_id": "s1", "title": "Carry in an addition", "principle": "Add the ones first and carry. Then the tens.",
         "when_to_apply": "In an addition whose ones make ten or more."},
        {"skill_id": "s2", "title": "Open the bracket first", "principle": "Work out the bracket. Only then subtract.",
         "when_to_apply": "Where a minus stands before a bracket."},
        {"skill_id": "s3", "title": "Round and mend", "principle": "Round to the next ten and take off the rest.",
         "when_to_apply": "Where a number is near a ten."},
        {"skill_id": "s4", "title": "Count what is left", "principle": "Take off the largest multiple.",
         "when_to_apply": "For a remainder. Also for a clock."},
    ],
    "common_mistakes": [
        {"mistake_id": "m1", "description": "A carry is dropped", "why_it_happens": "The tens are added in haste.",
         "how_to_avoid": "Write the carry above the tens."},
        {"mistake_id": "m2", "description": "The sign in a bracket is kept", "why_it_happens": "The minus is missed.",
         "how_to_avoid": "Turn every sign, or do the bracket first."},
        {"mistake_id": "m3", "description": "{{ braces }} & a < b are copied", "why_it_happens": "„Habit“ – it’s easy.",
         "how_to_avoid": "Read again."},
    ],
    "metadata": {},
}  # fmt: skip

#: By name: the method, and what else of the configuration is not as in RUN.
TEACHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "pairs": ({"name": "sgsd", "k": 2}, {}),
    "pairs, more than there are": ({"name": "sgsd", "k": 5}, {}),
    "pairs, thinking": ({"name": "sgsd", "k": 1}, {"prompts": {"teacher_thinking": True}}),
    "pairs, rotated": ({"name": "sgsd", "k": 3}, {"bank": {"pairing": "rotated"}}),
    "pairs, diverse": ({"name": "sgsd", "k": 2}, {"bank": {"diversity": 0.6}}),
    "pairs, by chance": ({"name": "sgsd", "k": 2}, {"bank": {"retrieval": "random"}}),
    "pairs, those too long left out": (
        {"name": "sgsd", "k": 4},
        {"prompts": {"unfit": "skip", "max_tokens": {"lab": 64, "math": 245}}},
    ),
    "skill": ({"name": "sgsd", "k": 2, "side": "skill"}, {}),
    "mistake": ({"name": "sgsd", "k": 2, "side": "mistake"}, {}),
    "irrelevant": ({"name": "sgsd", "k": 1, "others": ["irrelevant"]}, {}),
    "shuffled": ({"name": "sgsd", "k": 1, "others": ["shuffled"]}, {}),
    "random": ({"name": "sgsd", "k": 1, "others": ["random"]}, {}),
    "null": ({"name": "sgsd", "k": 1, "others": ["null"]}, {"prompts": {"teacher_thinking": True}}),
    "pairs with answer": ({"name": "sgsd", "k": 2, "also": "answer"}, {}),
    "pairs with solution": ({"name": "sgsd", "k": 1, "also": "solution"}, {}),
    "pairs with solution or answer": ({"name": "sgsd", "k": 1, "also": "solution_or_answer"}, {}),
    "answer": ({"name": "opsd", "show": "answer"}, {}),
    "solution": ({"name": "opsd", "show": "solution"}, {}),
    "solution or answer": ({"name": "opsd"}, {}),
    "answer, reasons first": ({"name": "opsd", "show": "answer", "reason_first": True}, {}),
    "solution, reasons first": ({"name": "opsd", "reason_first": True}, {"prompts": {"teacher_thinking": True}}),
    "demonstration": ({"name": "sdft"}, {}),
    "answer with rubric": ({"name": "rcsd"}, {}),
    "solution with rubric": ({"name": "rcsd", "show": "solution_or_answer"}, {}),
    "rubric": ({"name": "sgsd", "k": 1, "others": ["rubric"]}, {}),
    "wrong answer": ({"name": "sgsd", "k": 1, "others": ["wrong_answer"]}, {}),
    "other problem": ({"name": "op2sd"}, {}),
    "sibling": ({"name": "sdpo"}, {}),
    "hints": ({"name": "rlcsd", "wrong": 2}, {}),
    "feedback": ({"name": "sdpo", "feedback": True}, {}),
    "critique": ({"name": "critique"}, {}),
    "mixed": (
        {"name": "sgsd", "k": 1, "also": "answer", "group": 4,
         "others": ["null", "irrelevant", "shuffled", "random", "answer", "wrong_answer", "other_problem",
                    "demonstration", "sibling", "feedback", "rubric", "critique"]},
        {},
    ),
}  # fmt: skip
#: Methods whose student is shown pairs while it trains.
INJECTING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": ({"name": "grpo_skill", "k": 3}, {}),
    "opsd": ({"name": "opsd_skill", "k": 1}, {"prompts": {"student_thinking": True}}),
    "more than there are": ({"name": "grpo_skill", "k": 5}, {}),
    "fewer where they are too long": (
        {"name": "grpo_skill", "k": 4},
        {"prompts": {"unfit": "skip", "max_tokens": {"lab": 120, "math": 400}}},
    ),
}
#: What stands in the place of a run's own pairs, in a probe.
CONTROLS = ("irrelevant", "shuffled", "null")
REASONS = "first the ones,\nthen the tens<|im_end|>ignored"
CRITIQUES = {"I do not know.": None}  # what a critic has no answer to; of others it says:
CRITIQUE = "<think>hm</think>1. The ones are right.\n2. {{ 3+3+1=7 }}"
RUN: dict[str, Any] = {
    "seed": 5,
    "model": {"path": "lab", "dtype": "float32"},
    "lora": {"rank": 4, "alpha": 8},
    "data": {"path": "rows.jsonl", "solution": "solution", "rubric": "rubric"},
    "prompts": {"student_thinking": False, "teacher_thinking": False, "evaluation_thinking": False, "max_tokens": 4096},
}
#: What a bank is made from: rollouts as they are remembered (problem, what was written, whether it was right).
MEMORIES: list[tuple[str, str, bool]] = [
    ("Addition: 38 + 35", "<think>\nhm\n</think>\n\n38+35=73. \\boxed{73}", True),
    ("Bracket: 20-(7-3)", "20-7-3=10 {{ braces }}\n\\boxed{10}", False),
    ("Square: 12*12", "begin " + "so it goes on, " * 12 + "and ends", True),
    ("Double minus: 9-(-4)", "9-4=5 \\boxed{5}", False),
    ("Addition: 44+29", "73 \\boxed{73}", True),
]


def laid_over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {
        k: laid_over(base[k], v) for k, v in changes.items() if isinstance(v, dict) and isinstance(base.get(k), dict)
    }
    return {**base, **changes, **both}


def for_set(wording: str, method: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The run's configuration for one prompt set; a limit that stands for each set is taken for this one."""
    raw = laid_over(RUN, {"method": method, "group": method.get("group"), **changes})
    limit = raw["prompts"]["max_tokens"]
    own = {"folder": wording, "max_tokens": limit[wording] if isinstance(limit, dict) else limit}
    return {key: value for key, value in {**raw, "prompts": {**raw["prompts"], **own}}.items() if value is not None}


def item(written: str) -> str:
    """What a scripted writer answers: unreadable to one kind of question, so that a repair is asked for."""
    if "Your answer could not be read" in written:
        return '{"common_mistakes": [{"description": "d", "why_it_happens": "w", "how_to_avoid": "h"}]}'
    if "9-4=5" in written:
        return "It is hard to say."
    number = hashlib.sha256(written.encode()).hexdigest()[:4]
    if "general_skills" in written:
        fields = {"title": f"Title {number}", "principle": "Do \\alpha – é.", "when_to_apply": "Often."}
        return json.dumps({"general_skills": [fields, {**fields, "title": f"Another {number}"}]})
    fields = {"description": f"Slip {number}", "why_it_happens": "Haste.", "how_to_avoid": "Wait."}
    return json.dumps({"common_mistakes": [fields]})


# ── From here on the package itself is asked ───────────────────────────────────────────────────────────────────────


def rendered() -> dict[str, list[Any]]:
    """Every prompt, by what it is."""
    with tempfile.TemporaryDirectory() as folder:
        desk = Wording(Path(folder))
        found: dict[str, list[Any]] = {}
        for wording in SETS:
            found |= {f"{wording}/{name}": told for name, told in desk.students(wording)}
            found |= {f"{wording}/teachers: {name}": desk.teachers(wording, *TEACHERS[name]) for name in TEACHERS}
            found |= {f"{wording}/{name}": told for name, told in desk.controls(wording)}
            found[f"{wording}/critique: questions"] = desk.asked_of_critics(wording)
        found["growth: questions"] = growth_questions()
    return found


class Wording:
    """Renders the prompts of a configured run and tells them in plain values."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bank.json").write_text(json.dumps(BANK), encoding="utf-8")
        self.bank_path = str(folder / "bank.json")
        self.bank = load_bank(folder / "bank.json")
        self.problems = [Problem(**fields) for fields in PROBLEMS]
        self.others = [Problem(**fields) for fields in OTHERS]

    def begin(self, wording: str, method: dict[str, Any], changes: dict[str, Any]) -> None:
        bank = {"bank": {"path": self.bank_path, **changes.get("bank", {})}}
        self.config = make_config(for_set(wording, method, {**changes, **bank}))
        self.method, self.tokenizer = self.config.build_method(), load_tokenizer(self.config.model)
        prompts = self.config.prompts
        self.maker = PromptBuilder(load_prompts(prompts.folder), self.tokenizer, prompts.max_tokens)
        self.questions: list[str] = []
        engine = ScriptedEngine(lambda prompt, index: self.ids(REASONS), self.tokenizer.decode)
        self.contexts = make_contexts(
            self.config,
            self.method,
            self.maker,
            self.bank,
            problems=self.others,
            engine=engine,
            critic=self.critic,
        )

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def critic(self, rollouts: Sequence[Graded], questions: Sequence[str]) -> list[str | None]:
        self.questions += questions
        return [CRITIQUES.get(rollout.rollout.completion.text, CRITIQUE) for rollout in rollouts]

    def rollouts(self) -> list[Graded]:
        made: list[Graded] = []
        for group, problem in enumerate(self.problems):
            for text, status, answer in ROLLOUTS[problem.id]:
                done = Completion(len(made), (5, 6), text, "stop")
                made.append(Graded(Rollout(problem, (0,), done, group), Verdict(Status(status), answer)))
        return made

    # ── What is recorded ───────────────────────────────────────────────────────────────────────────────────────────

    def told(self, ids: Sequence[int]) -> dict[str, Any]:
        """Text, number and hash of a prompt's tokens; nothing of a prompt that was left out."""
        if not ids:
            return {"tokens": 0}
        said = self.tokenizer.decode(list(ids), skip_special_tokens=False)
        return {"tokens": len(ids), "sha256": hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest(), "text": said}

    def pool(self, views: Iterable[Any]) -> list[dict[str, Any]]:
        return [
            {"source": view.source, "items": list(view.item_ids), "weight": round(view.weight, 9)}
            | self.told(view.prompt_ids)
            for view in views
        ]

    def teachers(self, wording: str, method: dict[str, Any], changes: dict[str, Any]) -> list[Any]:
        """The pools of all problems or, where they are made of rollouts, of all rollouts that differ in theirs."""
        self.begin(wording, method, changes)
        if "solution" in (method.get("show"), method.get("also")):
            self.problems = [problem for problem in self.problems if problem.solution]
        rollouts = self.rollouts()
        pools = [self.pool(views) for views in self.contexts.teachers.views(rollouts)]
        found = []
        for rollout, pool in zip(rollouts, pools, strict=True):
            entry = {"problem": rollout.problem.id, "teachers": pool}
            if entry not in found:
                found.append(entry)
        self.problems = [Problem(**fields) for fields in PROBLEMS]
        return found

    def students(self, wording: str) -> Iterable[tuple[str, list[Any]]]:
        for thinking in (False, True):
            self.begin(wording, {"name": "reinforce"}, {})
            made = [self.told(self.maker.student(problem, thinking=thinking)) for problem in self.problems]
            yield f"student, thinking {'on' if thinking else 'off'}", made
        for name, (method, changes) in INJECTING.items():
            self.begin(wording, method, changes)
            asker = self.contexts.train_prompts
            thinking = self.config.prompts.student_thinking
            yield f"student with pairs: {name}", [self.told(asker.student(p, thinking=thinking)) for p in self.problems]
        evaluation = {"data": {"path": "held.jsonl"}, "skills": 2}
        self.begin(wording, {"name": "reinforce"}, {"evaluation": evaluation, "prompts": {"evaluation_thinking": True}})
        examiner = self.contexts.eval_prompts
        yield "evaluation with skills", [self.told(examiner.student(p, thinking=True)) for p in self.problems]
        shutil.copytree(BUNDLED / wording, own := self.folder / f"{wording}-own")
        (own / "system.txt").write_text("You are careful.\n", encoding="utf-8")
        self.begin(str(own), {"name": "sgsd", "k": 1}, {})
        plain = [self.told(self.maker.student(problem, thinking=False)) for problem in self.problems]
        yield (
            "with a system prompt",
            plain + [self.pool(views) for views in self.contexts.teachers.views(self.problems)],
        )

    def controls(self, wording: str) -> Iterable[tuple[str, list[Any]]]:
        """What a probe or a stance puts in the place of pairs, alone and with the answer beside them."""
        for also in (None, "answer"):
            beside = f" with {also}" if also else ""
            self.begin(wording, {"name": "sgsd", "k": 3, "also": also, "stance": "contrast"}, {})
            for name in CONTROLS:
                made = self.contexts.teachers.of(control(self.method.context, name))
                yield f"control: {name}{beside}", [self.pool(views) for views in made.views(self.problems)]
            nulls = self.contexts.null_teachers
            assert nulls is not None
            yield f"null teacher{beside}", [self.pool(views) for views in nulls.views(self.problems)]
        self.begin(wording, {"name": "sgsd", "k": 2, "stance": "contrast", "others": ["sibling"], "group": 4}, {})
        nulls = self.contexts.null_teachers
        assert nulls is not None
        yield "null teacher of a mixed pool", [self.pool(views) for views in nulls.views(self.rollouts())]

    def asked_of_critics(self, wording: str) -> list[Any]:
        self.begin(wording, {"name": "critique"}, {})
        self.contexts.teachers.views(self.rollouts())
        return list(self.questions)


def growth_questions() -> list[Any]:
    """All that the writer is asked while a bank is brought up to date: extraction, repair, merging."""
    writer = ScriptedWriter(lambda request: item(request.messages[-1][1]))
    window = [Memory(i, f"p{i}", *memory) for i, memory in enumerate(MEMORIES)]
    settings = UpkeepSettings(
        threshold=1.0, extract=ExtractSettings(items=2, max_tokens=100, max_chars=80), merge=MergeSettings(group=4)
    )
    desk = WriterClient(writer, load_prompts("growth", required=TEMPLATES))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.json"
        path.write_text(json.dumps(BANK), encoding="utf-8")
        update_bank(load_bank(path), window, desk, settings, step=25)
    return [
        {"max_tokens": call.max_tokens, "messages": [{"role": role, "text": text} for role, text in call.messages]}
        for call in writer.calls
    ]
