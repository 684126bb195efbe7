"""Bytes that a run needs at the worst moment, by arithmetic and by what a trace on the meta device holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sgsd.plan.meta_model import MetaModel
from sgsd.plan.sizes import Lengths, Rows, Shape, bytes_in
from sgsd.rollout import Sampling
from sgsd.scorer import is_teacher_adapter
from sgsd.scorer.divergence import MAX_ELEMENTS
from sgsd.scorer.head import CPU_TILES, OTHER_TILES
from sgsd.scorer.module import causal_lm

#: Tensors of [tokens × hidden] in float32 that the head holds beside its tiles: the direction and the entered states of
#: a frozen one; states, their weighted copy and their gradient of one that trains.
HEAD_STATES = {False: 2, True: 3}
HEAD_TILES = 2  # one of logits, one for the entropy's sum
DIVERGENCE_TILES = 8  # of logits and what a divergence keeps of them


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that go through the model together."""

    rows: int
    width: int  # tokens of a row
    size: float  # bytes that grow with the rows
    limit: str = "sampling.max_tokens"  # the key that says how long a completion may be

    @property
    def tokens(self) -> int:
        return self.rows * self.width


@dataclass(frozen=True)
class Memory:
    """Bytes of one process: what stands is there all the time, what is at work one at a time."""

    weights: float
    teacher: float  # a teacher's own copy or adapter
    moments: float  # AdamW's two
    gradients: float
    drawn: tuple[Batch, ...]  # what is sampled together, in training and in the evaluation: the cache and the draw
    teachers: float  # a pass of teachers
    student: float  # a pass of the student: what is kept for the gradient and what comes and goes
    step: float  # what AdamW needs while it moves weights
    gathered: float = 0.0  # weights made whole for a pass, where a process holds a part
    whole: float = 0.0  # and all of them, to sample with
    several: bool = True  # whether a micro-batch finds the gradients of an earlier one

    @classmethod
    def of(
        cls, meta: MetaModel, lengths: Lengths, *, device: str = "cuda", processes: int = 1, in_parts: bool = False
    ) -> Memory:
        """Computes it for texts this long, on "cpu" or "cuda"; `in_parts`: the weights are shared out (FSDP)."""
        model, copied = meta.whole.model, meta.whole.teacher_copy
        shape, rows = Shape.of(meta), Rows.of(meta, lengths, processes)
        moments = _Transient(meta, shape, rows, lengths, device)
        adapter = sum(bytes_in([p]) for name, p in model.named_parameters() if is_teacher_adapter(name))
        trained = [p for p in model.parameters() if p.requires_grad]
        weights, learned = bytes_in(model.parameters()) - adapter, bytes_in(trained)
        teacher = adapter if copied is None else bytes_in(copied.parameters())
        holders = processes if in_parts else 1
        # On a GPU AdamW moves all weights at once, on a CPU one after the other.
        moved = learned if device == "cuda" else 2 * max((bytes_in([p]) for p in trained), default=0)
        lm = causal_lm(model)
        outer = bytes_in({lm.get_input_embeddings().weight, lm.get_output_embeddings().weight})
        return cls(
            weights=weights / holders,
            teacher=teacher / holders,
            moments=2 * learned / holders,
            gradients=learned / holders,
            drawn=moments.drawn(processes),
            teachers=moments.teachers(),
            student=moments.student(),
            step=moved / holders,
            # One layer is computed with while the next is fetched; embedding and head stay whole.
            gathered=outer + 2 * (weights - outer) / shape.layers if in_parts else 0.0,
            whole=weights if in_parts else 0.0,
            several=rows.student_microbatches > 1,
        )

    @property
    def standing(self) -> float:
        return self.weights + self.teacher + self.moments

    @property
    def sampling(self) -> float:
        """Training's or the evaluation's, whichever needs more."""
        return self.whole + max((batch.size for batch in self.drawn), default=0.0)

    @property
    def at_work(self) -> Mapping[str, float]:
        """Bytes beside what stands, by the moment that needs them."""
        held = self.gradients if self.several else 0.0
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


@dataclass(frozen=True)
class _Transient:
    """Bytes that come and go."""

    meta: MetaModel
    shape: Shape
    rows: Rows
    lengths: Lengths
    device: str

    @property
    def item(self) -> int:
        return getattr(torch, self.meta.config.model.dtype).itemsize

    def drawn(self, processes: int) -> tuple[Batch, ...]:
        """Batches of sampling; none where an engine beside the trainer samples: its memory is its own."""
        config, e = self.meta.config, self.meta.config.evaluation
        if config.rollout.engine != "transformers":
            return ()
        found = [self._batch(self.rows.per_batch, config.sampling.to_sampling(), "sampling.max_tokens")]
        if e.data is not None:
            fit = config.compute.rollout_tokens // (self.lengths.student_prompt + e.sampling.max_tokens)
            together = max(1, min(fit, math.ceil(e.problems / processes) * e.samples))
            found.append(self._batch(together, e.sampling.to_sampling(), "evaluation.sampling.max_tokens"))
        return tuple(found)

    def _batch(self, rows: int, sampling: Sampling, limit: str) -> Batch:
        """The cache and the draw at the last token; or, before the first, the pass over the prompts."""
        prompt = self.lengths.student_prompt
        width = prompt + sampling.max_tokens
        last = self.meta.decode_peak(rows, width, sampling)
        cached = rows * prompt * self.shape.cached * self.item
        return Batch(rows, width, max(last, cached + self.meta.teacher_peak(rows, prompt)), limit)

    def teachers(self) -> float:
        rows, lengths = self.rows, self.lengths
        if not rows.teachers:
            return 0.0
        head = self._head(rows.per_teacher, trains=None)
        return self._states() + self.meta.teacher_peak(rows.per_teacher, lengths.teacher) + head

    def student(self) -> float:
        rows, lengths = self.rows, self.lengths
        head = self._head(rows.per_student, trains=self.shape.head_trains)
        if self.meta.method.objective.needs_divergence:
            logits = rows.per_student * lengths.completion * self.shape.vocabulary
            head += DIVERGENCE_TILES * 4 * min(MAX_ELEMENTS, logits)
        return self._states() + self.meta.student_peak(rows.per_student, lengths.student) + head

    def _states(self) -> float:
        """The teachers' states, which wait for the student where whole distributions are compared."""
        if not self.meta.method.objective.needs_divergence:
            return 0.0
        return self.rows.teachers * self.lengths.completion * self.shape.hidden * self.item

    def _head(self, rows: int, *, trains: bool | None) -> float:
        """Tiles and states of the completions of so many rows; `trains` is none where nothing needs a gradient."""
        tokens, hidden = rows * self.lengths.completion, self.shape.hidden
        height, width = CPU_TILES if self.device == "cpu" else OTHER_TILES
        tile = 4 * min(height, tokens) * min(width, self.shape.vocabulary)
        if self.device == "cpu" and self.item < 4:
            tile += 4 * min(width, self.shape.vocabulary) * hidden  # weights are widened
        states = tokens * hidden * self.item
        return (
            tile + states if trains is None else HEAD_TILES * tile + states + 4 * tokens * hidden * HEAD_STATES[trains]
        )


def size_words(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
