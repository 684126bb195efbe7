"""Bytes that a run needs at the worst moment, by arithmetic and by what passes hold on the meta device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sgsd.rollout import Sampling
from sgsd.scorer import TEACHER_ADAPTER
from sgsd.scorer.divergence import MAX_ELEMENTS
from sgsd.scorer.head import CPU_TILES, OTHER_TILES
from sgsd.scorer.module import causal_lm
from sgsd.train.arithmetic import Lengths, Rows, Shape, bytes_of
from sgsd.train.meta_pass import Ghost

#: Tensors of [tokens × hidden] in float32 that the head holds beside its tiles: the direction and the entered states of
#: a frozen one; states, their weighted copy and their gradient of one that trains.
HEAD_STATES = {False: 2, True: 3}
HEAD_TILES = 2  # one of logits, one for the entropy's sum
DIVERGENCE_TILES = 8  # of logits and what a divergence keeps of them


@dataclass(frozen=True)
class Memory:
    """Bytes of one process. What stands is there all the time; of the moments only one at a time."""

    weights: float
    teacher: float  # a teacher's own copy or adapter
    moments: float  # AdamW's two
    gradients: float
    sampling: float  # in training or evaluation: cache, the draw, and whole weights where a process otherwise holds a part
    teachers: float  # a pass of teachers
    student: float  # a pass of the student: what is kept for the gradient and what comes and goes
    step: float  # what AdamW needs while it moves weights
    gathered: float = 0.0  # weights made whole for a pass, where a process holds a part
    several_passes: bool = True  # whether a pass finds the gradients of an earlier one

    @classmethod
    def of(
        cls, ghost: Ghost, lengths: Lengths, *, device: str = "cuda", processes: int = 1, in_parts: bool = False
    ) -> Memory:
        """Of a run whose texts are this long, on "cpu" or "cuda"; `in_parts`: the weights are shared out (FSDP)."""
        shape, holders = Shape.of(ghost), processes if in_parts else 1
        config, method, scorer = ghost.config, ghost.method, ghost.whole
        rows, lm = Rows.of(config, method, lengths, processes), causal_lm(scorer.model)
        trained = [p for p in scorer.model.parameters() if p.requires_grad]
        learned, copied = float(bytes_of(scorer.model, trained=True)), scorer.teacher_copy
        adapter = sum(
            p.numel() * p.element_size() for n, p in scorer.model.named_parameters() if f".{TEACHER_ADAPTER}." in n
        )
        teacher = bytes_of(copied) if copied is not None else adapter
        weights = bytes_of(scorer.model) - adapter
        item, hidden = lm.dtype.itemsize, shape.hidden
        e, budget = config.evaluation, config.compute.rollout_tokens

        def sampled(rows: int, sampling: Sampling) -> float:
            """At the last token the cache and the draw; or, before the first, the prompts' pass."""
            last = ghost.decode_step(rows, lengths.student_prompt + sampling.max_tokens, sampling).peak
            prompts = rows * lengths.student_prompt * shape.cached * item
            return max(last, prompts + ghost.teacher_pass(rows, lengths.student_prompt).peak)

        sampling = sampled(rows.per_batch, config.sampling.to_sampling())
        if e.data is not None:
            width = lengths.student_prompt + e.sampling.max_tokens
            together = max(1, min(budget // width, math.ceil(e.problems / processes) * e.samples))
            sampling = max(sampling, sampled(together, e.sampling.to_sampling()))
        head = head_bytes(shape, rows.per_student * lengths.completion, item, device, trains=shape.head_trains)
        states = 0.0
        if method.matches_distribution:
            states = rows.teachers * lengths.completion * hidden * item
            head += DIVERGENCE_TILES * 4 * min(MAX_ELEMENTS, rows.per_student * lengths.completion * shape.vocabulary)
        # On a GPU AdamW moves all weights at once, on a CPU one after the other.
        largest = max((p.numel() * p.element_size() for p in trained), default=0)
        own_head = bytes_of(lm.get_input_embeddings()) + (0 if _tied(lm) else bytes_of(lm.get_output_embeddings()))
        unit = own_head + 2 * (weights - own_head) / shape.layers
        return cls(
            weights=weights / holders,
            teacher=teacher / holders,
            moments=2 * learned / holders,
            gradients=learned / holders,
            sampling=sampling + (weights if in_parts else 0),
            teachers=0.0
            if not rows.teachers
            else states
            + ghost.teacher_pass(rows.per_teacher, lengths.teacher).peak
            + head_bytes(shape, rows.per_teacher * lengths.completion, item, device, trains=None),
            student=states + ghost.student_pass(rows.per_student, lengths.student).peak + head,
            step=(learned / holders if device == "cuda" else 2 * largest / holders),
            gathered=unit if in_parts else 0.0,
            several_passes=rows.student_passes > 1,
        )

    @property
    def standing(self) -> float:
        return self.weights + self.teacher + self.moments

    @property
    def at_work(self) -> Mapping[str, float]:
        """Beside what stands, by the setting or the fact that decides it."""
        held = self.gradients if self.several_passes else 0.0
        return {
            "sampling": self.sampling,
            "teachers' pass": self.teachers + self.gathered,
            "student's pass": max(self.student + held, self.gradients) + self.gathered,
            "optimizer's step": self.gradients + self.step,
        }

    @property
    def peak(self) -> float:
        return self.standing + max(self.at_work.values())

    @property
    def worst(self) -> str:
        return max(self.at_work, key=lambda name: self.at_work[name])

    def words(self) -> str:
        stands = {"weights": self.weights, "teacher's own": self.teacher, "AdamW's moments": self.moments}
        listed = [f"{name} {size_words(value)}" for name, value in stands.items() if value]
        moments = ", ".join(f"{name} {size_words(value)}" for name, value in self.at_work.items() if value)
        return f"about {size_words(self.peak)} a process: {', '.join(listed)}; and of these the largest: {moments}"


def head_bytes(shape: Shape, tokens: int, item: int, device: str, *, trains: bool | None) -> float:
    """Tiles and states of a pass over the head; `trains` is none where nothing needs a gradient."""
    rows, columns = CPU_TILES if device == "cpu" else OTHER_TILES
    tile = 4 * min(rows, tokens) * min(columns, shape.vocabulary) * (HEAD_TILES if trains is not None else 1)
    widened = 0 if item == 4 else 4 * min(columns, shape.vocabulary) * shape.hidden
    states = tokens * shape.hidden * item + (
        4 * tokens * shape.hidden * HEAD_STATES[trains] if trains is not None else 0
    )
    return tile + widened + states


def _tied(lm: torch.nn.Module) -> bool:
    return lm.get_input_embeddings().weight is lm.get_output_embeddings().weight  # type: ignore[operator]


def size_words(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
