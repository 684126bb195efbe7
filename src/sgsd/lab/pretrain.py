"""The recipe by which the lab's policy is pre-trained, before anybody trains it by self-distillation.

On a plain prompt it mixes right and faulty procedures; a skill, a mistake or an answer in the prompt moves the mix:
the procedure of branch b is right with probability sigmoid(logit(share_b) ± 3.0 for a skill ± 1.6 for a mistake).
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from sgsd.contexts.prompts import PromptSet, encode_chat, load_prompts
from sgsd.lab import task_skills as S
from sgsd.lab.task import BRANCHES, RIGHT_SHARE, STYLES, LabProblem, Solution, problems
from sgsd.lab.tiny_policy import new_policy, train_tokenizer
from sgsd.types import BankItem


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights; the seed and this recipe reproduce them on one machine."""

    steps: int = 2400
    batch: int = 64
    matrix_rate: float = 0.02  # Muon, for the layers' matrices
    other_rate: float = 3e-3  # AdamW, for embeddings and norms
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    warmup: float = 0.03
    decay: float = 0.4  # the last part of the steps, over which the rates fall to a fiftieth
    seed: int = 0
    threads: int = 2
    plain_share: float = 0.25
    answer_share: float = 0.08  # the rest is shown a skill, a mistake, or both
    thinking_share: float = 0.12
    skill_logit: float = 3.0
    mistake_logit: float = 1.6
    answer_right: float = 0.70  # an answer shown is the right one; otherwise a faulty procedure's
    follow_answer: float = 0.95
    skill_style: float = 0.9
    mistake_style: float = 0.7
    usual_style: float = 0.88
    right_share: Mapping[str, float] = field(default_factory=lambda: dict(RIGHT_SHARE))


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt as the teacher or the student would see it, and the completion to learn."""

    context: dict[str, object]  # {} plain, {"answer"} or {"skill", "mistake"}
    problem: LabProblem
    solution: Solution
    thinking: bool

    @property
    def text(self) -> str:
        return self.solution.thinking_text if self.thinking else self.solution.text


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def procedure_logits(
    recipe: Recipe, problem: LabProblem, skill: BankItem | None, mistake: BankItem | None
) -> dict[str, float]:
    """Logits by which the items shown move the problem's branches; items about anything else move nothing."""
    logits = {branch: _logit(recipe.right_share[branch]) for branch in BRANCHES}
    for item, strength in ((skill, recipe.skill_logit), (mistake, recipe.mistake_logit)):
        if item is not None and item.meta["target"] in problem.branches:
            logits[item.meta["target"]] += strength if item.meta["kind"] == S.HELPFUL else -strength
    return logits


def style_for(recipe: Recipe, skill: BankItem | None, mistake: BankItem | None, rng: random.Random) -> str:
    """The wording asked for, most of the time; otherwise mostly the usual one."""
    for item, strength in ((skill, recipe.skill_style), (mistake, recipe.mistake_style)):
        if item is not None and item.meta["kind"] == S.STYLISTIC and rng.random() < strength:
            return str(item.meta["target"])
    return "plain" if rng.random() < recipe.usual_style else rng.choice([style for style in STYLES if style != "plain"])


def _aim_for(problem: LabProblem, rng: random.Random) -> S.Aim:
    """Choose what the item shown is about: mostly a branch of this problem, sometimes something else."""
    kind = rng.choices(("own", "other", S.STYLISTIC, S.IRRELEVANT), (0.70, 0.10, 0.12, 0.08))[0]
    if kind in (S.STYLISTIC, S.IRRELEVANT):
        return rng.choice(S.aims(kind))
    pool = problem.branches if kind == "own" else [b for b in BRANCHES if b not in problem.branches]
    return S.Aim(rng.choice((S.HELPFUL, S.MISLEADING)), rng.choice(pool))


def _choose(logits: Mapping[str, float], rng: random.Random) -> dict[str, bool]:
    return {branch: rng.random() < 1 / (1 + math.exp(-logit)) for branch, logit in logits.items()}


def make_example(recipe: Recipe, problem: LabProblem, rng: random.Random) -> Example:
    """One pre-training example, every choice drawn from `rng`."""
    thinking = rng.random() < recipe.thinking_share
    show = rng.random()
    if show < recipe.plain_share:
        choices = _choose(procedure_logits(recipe, problem, None, None), rng)
        return Example({}, problem, problem.solve(choices, style_for(recipe, None, None, rng)), thinking)
    style = style_for(recipe, None, None, rng)
    if show < recipe.plain_share + recipe.answer_share:
        share = recipe.answer_right ** (1 / len(problem.branches))
        target = {branch: rng.random() < share for branch in BRANCHES}
        choices = target
        if rng.random() > recipe.follow_answer:
            choices = _choose(procedure_logits(recipe, problem, None, None), rng)
        context: dict[str, object] = {"answer": problem.solve(target).answer}
        return Example(context, problem, problem.solve(choices, style), thinking)
    shown = rng.choices(("both", "skill", "mistake"), (0.7, 0.15, 0.15))[0]
    skill = S.make_skill("", _aim_for(problem, rng), rng) if shown != "mistake" else None
    mistake = S.make_mistake("", _aim_for(problem, rng), rng) if shown != "skill" else None
    choices = _choose(procedure_logits(recipe, problem, skill, mistake), rng)
    solution = problem.solve(choices, style_for(recipe, skill, mistake, rng))
    return Example({"skill": skill, "mistake": mistake}, problem, solution, thinking)


def examples(recipe: Recipe) -> Iterator[Example]:
    rng = random.Random(f"pretrain/{recipe.seed}")
    for problem in problems(held_out=False, seed=recipe.seed):
        yield make_example(recipe, problem, rng)


def messages_for(prompts: PromptSet, problem: LabProblem, context: Mapping[str, object]) -> list[dict[str, str]]:
    """The prompt of a teacher that is shown the context; without one it is the student's."""
    shown = prompts.render("answer" if "answer" in context else "skill_pair", **context) if context else ""
    return prompts.teacher(problem.text, shown)


def _tokenizer_corpus(recipe: Recipe, prompts: PromptSet) -> Iterator[str]:
    for example in islice(examples(recipe), 20_000):
        yield messages_for(prompts, example.problem, example.context)[-1]["content"]
        yield f"user\nassistant\n{example.text}"


def encode_example(
    tokenizer: PreTrainedTokenizerFast, prompts: PromptSet, example: Example
) -> tuple[list[int], list[int]]:
    """Prompt ids and completion ids, the end token included."""
    messages = messages_for(prompts, example.problem, example.context)
    completion = tokenizer(example.text, add_special_tokens=False)["input_ids"]
    prompt = encode_chat(tokenizer, messages, thinking=example.thinking)
    return list(prompt), [*completion, tokenizer.eos_token_id]


def _batches(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Batches of examples of similar length, so that little is padding."""
    stream, rng = examples(recipe), random.Random(f"order/{recipe.seed}")
    while True:
        pool = [encode_example(tokenizer, prompts, next(stream)) for _ in range(16 * recipe.batch)]
        pool.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
        chunks = [pool[i : i + recipe.batch] for i in range(0, len(pool), recipe.batch)]
        rng.shuffle(chunks)
        yield from chunks


def completion_loss(model: Qwen3ForCausalLM, batch: Sequence[tuple[list[int], list[int]]], pad: int) -> torch.Tensor:
    """Mean cross-entropy of the completion tokens; pads stand at the end, where causal attention never looks."""
    width = max(len(prompt) + len(completion) for prompt, completion in batch)
    ids = torch.full((len(batch), width), pad)
    labels = torch.full((len(batch), width), -100)
    for row, (prompt, completion) in enumerate(batch):
        ids[row, : len(prompt) + len(completion)] = torch.tensor(prompt + completion)
        labels[row, len(prompt) - 1 : len(prompt) + len(completion) - 1] = torch.tensor(completion)
    hidden = model.model(input_ids=ids).last_hidden_state
    return F.cross_entropy(model.lm_head(hidden[labels >= 0]), labels[labels >= 0])


def make_optimizers(recipe: Recipe, model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, which learn to heed a context sooner by it; AdamW elsewhere."""
    matrices = [p for p in model.model.layers.parameters() if p.dim() == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=recipe.matrix_rate, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(others, lr=recipe.other_rate, betas=recipe.betas, weight_decay=0.0),
    ]


def rate(recipe: Recipe, step: int) -> float:
    """Warm up, hold, fall: the factor on the learning rates at a step counted from 0."""
    warmup = max(1, round(recipe.warmup * recipe.steps))
    left = (recipe.steps - step) / max(1, round(recipe.decay * recipe.steps))
    return max(0.02, min((step + 1) / warmup, 1.0, left))


def pretrain(
    recipe: Recipe, report: Callable[[int, float], None] = lambda step, loss: None
) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """Train the policy from nothing; deterministic given the recipe, the thread count and the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    prompts = load_prompts("lab")
    tokenizer = train_tokenizer(_tokenizer_corpus(recipe, prompts))
    model = new_policy(tokenizer, recipe.seed)
    optimizers = make_optimizers(recipe, model)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: rate(recipe, step)) for o in optimizers]
    model.train()
    for step, batch in enumerate(islice(_batches(recipe, tokenizer, prompts), recipe.steps), start=1):
        loss = completion_loss(model, batch, tokenizer.pad_token_id)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
        report(step, loss.item())
    torch.set_num_threads(threads)
    return model.eval(), tokenizer


def save_policy(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, folder: Path) -> str:
    """Write bf16 safetensors, the tokenizer and the recipe with the hash of the weights; returns the hash."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    card = {
        "recipe": asdict(recipe),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sha256": digest,
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    (folder / "recipe.json").write_text(json.dumps(card, indent=1, sort_keys=True) + "\n")
    return digest
