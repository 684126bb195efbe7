"""Writes docs/configuration.md from the schema, the recipes and the table of renamed keys.

python docs/build_configuration.py
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from sgsd.config.guards_config import GuardsConfig
from sgsd.config.renamed import FORMAT, RENAMED, SHED, UNTIL
from sgsd.config.schema import Part, parts, type_words
from sgsd.methods import RECIPES

PAGE = Path(__file__).with_name("configuration.md")

HEAD = """# Configuration

<!-- Written by docs/build_configuration.py from the schema; change the docstrings in src/sgsd/config instead. -->

A run is one YAML file. What it leaves out has the default below; the run folder's `config.yaml` holds every value.

```yaml
format: 2
name: my-first-run
steps: 200
rollouts: 16
method:
  name: sgsd
  k: 8
model:
  path: Qwen/Qwen3-1.7B
  gradient_checkpointing: true
lora:
  rank: 64
  alpha: 128
data:
  path: train.jsonl            # rows with problem and answer
sampling:
  temperature: 1.1
  max_tokens: 1024
bank:
  path: bank.json
optimizer:
  lr: 5e-6
evaluation:
  data: {path: held_out.jsonl}
checkpoint:
  every: 25
```

```bash
sgsd train my_run.yaml --dry-run                       # load and check everything, train nothing
sgsd train my_run.yaml --optimizer.lr 1e-5 --lora none # any key can be set on the command line
sgsd train my_run.yaml --help                          # all keys with this file's values
```

An unknown key is an error that names the nearest one; a value of the wrong type, or choices that do not go together, is
an error that says what to do. Nothing is converted in silence. `null` stands for "none" below; on the command line
`none` takes out a section or a value that may be null, a switch may stand alone (`--rollout.prefetch`,
`--rollout.no-prefetch`), and a list takes several words (`--optimizer.betas 0.9 0.95`). In Python:
`sgsd.config.load_config(path, {"optimizer.lr": 1e-5})` or `make_config({...})`.
"""

#: Meanings of the options of methods; `method.option` where a method means something of its own by it.
OPTIONS = {
    "k": "Retrieved pairs, and with them teachers, of a problem.",
    "grpo_skill.k": "Retrieved pairs in the student's prompt.",
    "opsd_skill.k": "Retrieved pairs in the student's prompt.",
    "tau": "Width τ of the gate; nats².",
    "rlcsd.tau": "Scale τ of the contrast between hints; nats.",
    "clip": "Bound c on a token's gap Δ in the support; nats.",
    "trusted.clip": "Bound c on a token's gap Δ in the support and in the loss; nats.",
    "opsd.clip": "Bound on a token's divergence; nats; null: none.",
    "opsd_skill.clip": "Bound on a token's divergence; nats; null: none.",
    "op2sd.clip": "Bound on a token's divergence; nats; null: none.",
    "rcsd.clip": "Bound on a token's divergence; nats; null: none.",
    "critique.clip": "Bound on a token's divergence; nats; null: none.",
    "clip_level": "The clip is on a token's divergence, or on each of its vocabulary entries.",
    "confidence": "Size ε of a support up to which a teacher takes no stance; nats, or a relative change.",
    "teacher": "Weights of the teacher: the student's now, those at the start, a moving average, or a periodic copy.",
    "also": "Reference shown beside the pairs; null: none.",
    "stance": "Support of a teacher: mean gap, mean ratio, or mean gap in contrast to a null teacher.",
    "side": "Part of a pair that a teacher is shown.",
    "others": "Further teachers, one for each name; docs/contexts.md.",
    "gate": "Loss ℓ of a gap; docs/methods.md.",
    "coefficient": "Factor of a teacher's stance: the verdict ±1, or the rollout's advantage in its group.",
    "group": "Rollouts of one problem in a step.",
    "top_k": "Likeliest tokens that the divergence is over; null: the whole vocabulary.",
    "keep_sampled": "The sampled token counts beside the top k, and the stance reads its gap among them.",
    "tail": "The rest of the vocabulary counts as one more token.",
    "outcome": "Weight λ of the outcome's own term; 0: none.",
    "floor": "Least trust, between -1 (a refuted teacher is reversed) and 0 (it is ignored).",
    "iterations": "Updates with the rollouts of one step.",
    "epsilon": "Clip ε of the policy's ratio.",
    "epsilon_high": "Upper clip of the policy's ratio; null: ε.",
    "dual_clip": "For negative advantages, largest ratio that counts, above 1; null: none.",
    "kl": "Share of the divergence from the policy at the start in the loss.",
    "scale_rewards": "The advantage is divided by the standard deviation within its group, the batch, or not at all.",
    "reduce": "Mean of the loss: per rollout first, over all tokens, or over max_tokens.",
    "show": "Reference that the teacher is shown; the last: the answer where a problem has no solution.",
    "beta": "Place β of the divergence between KL(teacher ‖ student) at 0 and KL(student ‖ teacher) at 1.",
    "dasd.beta": "Weight β of the teachers' part of the advantage.",
    "quantile": "Quantile of the student's entropy within a rollout at which it turns from the teacher.",
    "reason_first": "The teacher writes its reasons before it scores.",
    "on_policy": "Share of rollouts that the student samples; the others are reference solutions.",
    "feedback": "Show the verifier's feedback instead of a sibling that succeeded.",
    "wrong": "Wrong hints, and with them teachers, beside the right one.",
    "strength": "Weight λ of the teachers' part of the advantage.",
    "least": "Size of a contrast up to which the advantage stays as it is.",
    "bound": "Bound of the ratio between teacher and student around 1.",
    "share": "Weight of the divergence beside the outcome.",
}


METHODS = """What the methods are: [methods.md](methods.md). Every method also takes `context`, which puts another in
the place of its own: a name of `sgsd.contexts`, or `module:name` of your own ([contexts.md](contexts.md)). A method
of your own is `name: "module:function"`, and its options are the function's arguments."""

FORMER = """A file with `format: {FORMAT}` has the names of this page; one without `format` is read as format 1.
Old names are read for three releases, until {UNTIL}, in files, on the command line and in run folders, with a line that
names the new one. `sgsd migrate CONFIG` shows a file with today's names, comments and layout kept; `--write` changes
it."""


def page() -> str:
    """The whole page."""
    blocks = [HEAD, *map(section, (part for part in parts().values() if not is_repeated(part)))]
    return "\n".join([*blocks, methods(), former_keys()])


def is_repeated(part: Part) -> bool:
    """Sections with the keys of another: they are named in its row."""
    return part.name.startswith(("guards.", "evaluation."))


def section(part: Part) -> str:
    """A heading, a sentence and a table of keys."""
    heading = f"## {part.name}" if part.name else "## At the top"
    null = " May be null." if part.optional else ""
    rows = [[key.name, key.type, "required" if key.required else shown(key.default), key.meaning] for key in part.keys]
    for name, other in parts().items():
        if name.startswith(f"{part.name}.") and is_repeated(other):
            default = guard_words(name) if part.name == "guards" else "`null`" if other.optional else "as there"
            rows.append([name, "section", default, other.meaning])
    text = "Keys that stand alone." if not part.name else part.meaning
    return "\n".join([heading, "", text + null, "", *table(("key", "type", "default", "meaning"), rows), ""])


def guard_words(name: str) -> str:
    guard = getattr(GuardsConfig(), name.removeprefix("guards."))
    return f"bound {guard.bound:g}, window {guard.window}, action {guard.action}"


def methods() -> str:
    """The options of every method, from the signatures of the recipes."""
    found = ["## method: options by method", "", METHODS, ""]
    for name, recipe in RECIPES.items():
        found += [f"### {name}", "", str(inspect.getdoc(recipe)).split("\n\n")[0].replace("\n", " "), ""]
        if rows := list(options(name, recipe)):
            found += [*table(("option", "type", "default", "meaning"), rows), ""]
    return "\n".join(found)


def options(name: str, recipe: Any) -> Iterator[list[str]]:
    hints = get_type_hints(recipe)
    for option, parameter in inspect.signature(recipe).parameters.items():
        meaning = OPTIONS.get(f"{name}.{option}", OPTIONS.get(option, ""))
        yield [option, type_words(TypeAdapter(hints[option]).json_schema()), shown(parameter.default), meaning]


def former_keys() -> str:
    """The tables of keys that were renamed or shed."""
    renamed = [[entry.old, entry.new, entry.reason] for entry in RENAMED]
    shed = [[entry.key, entry.reason] for entry in SHED]
    return "\n".join(
        [
            "## Keys of before",
            "",
            FORMER.format(FORMAT=FORMAT, UNTIL=UNTIL),
            "",
            *table(("before", "now", "why"), renamed),
            "",
            "Keys of what is gone are accepted and ignored, with a line that says so:",
            "",
            *table(("key", "instead"), shed),
            "",
        ]
    )


def shown(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def table(head: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    lines = [list(head), ["---"] * len(head)]
    lines += [[f"`{row[0]}`", *(cell.replace("|", "\\|") for cell in row[1:])] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
