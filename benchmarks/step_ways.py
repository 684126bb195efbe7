"""Three ways to make one training step on the same rollouts: ours, the direct one, and the floor under both.

    ours    what a run executes: `score_teachers` and `update` of sgsd.train.step
    direct  one rollout at a time, the student once per teacher with its gradient, logits of whole padded rows
    floor   the bare model on ours' own passes, the head's matrix products and nothing else

Ours and direct give the same loss and gradient. The floor gives none: it is what any way must at least multiply.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3Config

from sgsd.config.sections import ModelConfig
from sgsd.records.metrics import StepMetrics
from sgsd.scorer import PackedBatch, Row, collate, plan_microbatches
from sgsd.scorer.module import causal_lm
from sgsd.train import make_config
from sgsd.train.batch import Batch
from sgsd.train.models import load_tokenizer
from sgsd.train.setup import Run, build_run
from sgsd.train.step import score_teachers, update
from sgsd.types import Completion, Problem, Rollout, Status, TeacherView, Verdict

# (tokens, vocabulary) a product; for the CPU the fastest of eight that were tried, for GPUs untried.
FLOOR_TILES = {"cpu": (512, 512), "cuda": (4096, 8192)}


@dataclass(frozen=True, slots=True)
class Shape:
    """A Qwen3 model by its sizes, with a tied head."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int = 151_936


SMALL_SHAPE = Shape(hidden=256, layers=4, heads=4, kv_heads=2, head_dim=64, intermediate=768)


@dataclass(frozen=True, slots=True)
class Case:
    """What a step is made of. Lengths are in tokens."""

    shape: Shape
    rollouts: int
    teachers: int
    max_tokens: int
    student_prompt: int
    teacher_prompt: int
    group: int = 1  # rollouts of one problem
    mixed: bool = True  # lengths between a quarter of max_tokens and all of it, a fifth cut off there; else all of it
    lora_rank: int = 16
    dtype: str = "float32"
    checkpointing: bool = False
    student_tokens: int = 8192
    teacher_tokens: int = 32768


@dataclass(frozen=True)
class Bench:
    """A case made real: the parts of a run that a step uses, and a batch."""

    case: Case
    run: Run
    batch: Batch

    @property
    def lm(self) -> Any:
        return causal_lm(self.run.policy.model)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a way computed."""

    loss: float
    grad_norm: float


def make_bench(case: Case, *, attention: str = "sdpa") -> Bench:
    """Build the run's parts as a run does, from a folder with a random model."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(case, Path(folder))
        config = make_config(
            {
                "output": str(Path(folder) / "run"),
                "rollouts": case.rollouts,
                "group": case.group,
                "method": {"name": "sgsd", "k": case.teachers},
                "model": {
                    "path": folder,
                    "dtype": case.dtype,
                    "attention": attention,
                    "gradient_checkpointing": case.checkpointing,
                },
                "lora": {"rank": case.lora_rank, "alpha": 2 * case.lora_rank},
                "data": {"path": "lab:train", "limit": 2},
                "prompts": {"folder": "lab", "teacher_thinking": False, "evaluation_thinking": False},
                "bank": {"path": "lab"},
                "sampling": {"max_tokens": case.max_tokens},
                "compute": {"student_tokens": case.student_tokens, "teacher_tokens": case.teacher_tokens},
            }
        )
        run = build_run(config, Accelerator())
    torch.manual_seed(1)
    for name, parameter in run.policy.scorer.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02)  # zero at the start of a run; here it is to be seen
    return Bench(case, run, make_batch(case))


def save_model(case: Case, folder: Path) -> None:
    """Random weights whose logits have a standard deviation of 3, beside a tokenizer, which nothing here asks."""
    shape = case.shape
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=True,
        max_position_embeddings=32_768,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, case.dtype))
    model.get_input_embeddings().weight.data.normal_(std=3 / shape.hidden**0.5)
    model.save_pretrained(folder)
    load_tokenizer(ModelConfig(path="lab")).save_pretrained(folder)


def make_batch(case: Case) -> Batch:
    draw = random.Random(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(case.shape.vocabulary // 2, case.shape.vocabulary) for _ in range(count))

    def about(length: int) -> int:
        return max(2, round(length * draw.uniform(0.9, 1.1)))

    def completion_length() -> int:
        if not case.mixed or draw.random() < 0.2:
            return case.max_tokens
        return draw.randint(max(1, case.max_tokens // 4), case.max_tokens)

    rollouts, verdicts, views = [], [], []
    for number in range(case.rollouts):
        if number % case.group == 0:
            problem = Problem(str(number // case.group), "")
            prompt = tokens(about(case.student_prompt))
            weights = [draw.uniform(0.5, 1.5) for _ in range(case.teachers)]
            pool = tuple(
                TeacherView("skill_pair", tokens(about(case.teacher_prompt)), weight / sum(weights))
                for weight in weights
            )
        completion = Completion(number, tokens(completion_length()), "", "stop")
        rollouts.append(Rollout(problem, prompt, completion, number // case.group))
        verdicts.append(Verdict(Status.CORRECT if draw.random() < 0.5 else Status.INCORRECT))
        views.append(pool)
    return Batch(rollouts, verdicts, views)


def ours(bench: Bench) -> Outcome:
    metrics = StepMetrics()
    taught = score_teachers(bench.run.learner, bench.batch)
    # A rate of 0: every repetition finds the same weights.
    update(bench.run.learner, bench.batch, taught, metrics, lr=0.0)
    return Outcome(float(metrics.sums["loss"]), metrics.grad_norm)


def direct(bench: Bench, rollouts: Sequence[int]) -> tuple[float, list[Tensor]]:
    """Loss and gradient of some rollouts' share in the step, as published, but for two kindnesses.

    The softmax is taken on completion positions only, and the entropies without a graph.
    """
    batch, loss = bench.batch, 0.0
    for index in rollouts:
        loss_of_one = _direct_loss(bench, batch.rollouts[index], batch.verdicts[index], batch.views[index])
        loss_of_one.backward()
        loss += float(loss_of_one.detach())
        del loss_of_one  # or its graph would be there beside the next one's
    gradient = [p.grad.clone() for p in bench.run.policy.bare_scorer.parameters() if p.grad is not None]
    bench.run.policy.strategy.optimizer.zero_grad(set_to_none=True)
    return loss, gradient


def _direct_loss(bench: Bench, rollout: Rollout, verdict: Verdict, pool: Sequence[TeacherView]) -> Tensor:
    """The paper's equations for one rollout, divided by the step's rollouts; K rows of student and of teachers."""
    case, method = bench.case, bench.run.method
    completion = rollout.completion.token_ids
    student_KT = _direct_logps(bench, [rollout.prompt_ids] * len(pool), completion)
    with torch.no_grad():
        teacher_KT = _direct_logps(bench, [view.prompt_ids for view in pool], completion)
    gaps_KT = teacher_KT - student_KT
    support_K = gaps_KT.detach().clamp(-method.stance.clip, method.stance.clip).mean(1)
    stance_K = support_K.sign() * (support_K.abs() > method.stance.confidence)
    gate_KT = torch.log(torch.tensor(2.0)) - torch.nn.functional.softplus(-gaps_KT.square() / (2 * method.gate.tau))
    weights_K = torch.tensor([view.weight for view in pool], device=gaps_KT.device)
    return (weights_K * verdict.outcome * stance_K * gate_KT.mean(1)).sum() / case.rollouts


def _direct_logps(bench: Bench, prompts: Sequence[Sequence[int]], completion: Sequence[int]) -> Tensor:
    """Prompts padded on the left, completions on the right, to the greatest length there may be."""
    width, behind = max(map(len, prompts)), bench.case.max_tokens - len(completion)
    ids = [[0] * (width - len(prompt)) + [*prompt, *completion] + [0] * behind for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * (len(prompt) + len(completion)) + [0] * behind for prompt in prompts]
    device = bench.run.accelerator.device
    ids_KL, mask_KL = torch.tensor(ids, device=device), torch.tensor(mask, device=device)
    positions_KL = (mask_KL.cumsum(1) - 1).clamp(min=0)
    output = bench.lm(input_ids=ids_KL, attention_mask=mask_KL, position_ids=positions_KL, use_cache=False)
    logps_KTV = output.logits[:, width - 1 : -1].float().log_softmax(-1)
    with torch.no_grad():
        _ = -(logps_KTV.exp() * logps_KTV).sum(-1)  # the entropies, which are only logged
    return logps_KTV.gather(2, ids_KL[:, width:, None]).squeeze(2)[:, : len(completion)]


class Products:
    """The head's matrix products, tile by tile into one buffer that is there beforehand."""

    def __init__(self, bench: Bench) -> None:
        self.weight_VD = bench.lm.get_output_embeddings().weight.detach()
        self.tiles = FLOOR_TILES[self.weight_VD.device.type]
        self.buffer = self.weight_VD.new_ones(self.tiles[0] * self.tiles[1])

    def forward(self, hidden_ND: Tensor) -> None:
        self._walk(hidden_ND, None)

    def backward(self, hidden_ND: Tensor) -> Tensor:
        """What stands for the hidden states' gradient: the logits times the weight."""
        grad_ND = torch.zeros_like(hidden_ND)
        self._walk(hidden_ND, grad_ND)
        return grad_ND

    def _walk(self, hidden_ND: Tensor, grad_ND: Tensor | None) -> None:
        for row in range(0, hidden_ND.shape[0], self.tiles[0]):
            hidden_nD = hidden_ND[row : row + self.tiles[0]]
            for column in range(0, self.weight_VD.shape[0], self.tiles[1]):
                weight_vD = self.weight_VD[column : column + self.tiles[1]]
                tile_nv = self.buffer[: hidden_nD.shape[0] * weight_vD.shape[0]].view(hidden_nD.shape[0], -1)
                torch.mm(hidden_nD, weight_vD.t(), out=tile_nv)
                if grad_ND is not None:
                    grad_ND[row : row + self.tiles[0]].addmm_(tile_nv, weight_vD, alpha=1e-6)


def floor(bench: Bench, products: Products) -> None:
    """K teacher forwards and one student forward and backward on the passes that ours makes."""
    compute, model = bench.run.config.compute, bench.run.policy.model
    model.eval()
    with torch.no_grad():
        for pack in _packs(bench, bench.batch.teacher_rows(), compute.teacher_tokens):
            products.forward(_states(bench.lm, pack))
    model.train()
    for pack in _packs(bench, bench.batch.student_rows(), compute.student_tokens):
        hidden_ND = _states(bench.lm, pack)
        hidden_ND.backward(products.backward(hidden_ND.detach()))
    bench.run.policy.strategy.optimizer.zero_grad(set_to_none=True)


def _packs(bench: Bench, rows: Sequence[Row], token_budget: int) -> Iterator[PackedBatch]:
    for indices in plan_microbatches([len(row) for row in rows], token_budget):
        yield collate([rows[i] for i in indices], device=bench.run.accelerator.device)


def _states(lm: Any, pack: PackedBatch) -> Tensor:
    states_RLD = lm.base_model(input_ids=pack.input_ids_RL, use_cache=False).last_hidden_state
    return states_RLD.flatten(0, 1)[pack.predict_N]


def row_tokens(rows: Sequence[Row]) -> int:
    return sum(map(len, rows))
