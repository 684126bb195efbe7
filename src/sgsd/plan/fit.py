"""Whether a run fits a device of so many bytes, and what to lower first where it does not."""

from __future__ import annotations

from dataclasses import dataclass

from sgsd.config.run_config import RunConfig
from sgsd.plan.memory import Batch, Memory, size_words
from sgsd.plan.meta_model import MetaModel
from sgsd.plan.sizes import Lengths, Rows
from sgsd.types import UserError

STUDENT_PROMPT, TEACHER_PROMPT = 200, 600  # tokens, where nobody says
SPARE = 0.9  # of a device's memory; the rest goes to its context and to holes between tensors


@dataclass(frozen=True)
class Fit:
    """A run's memory on each of so many processes, held against a device."""

    config: RunConfig
    lengths: Lengths
    rows: Rows
    memory: Memory
    processes: int
    room: float  # bytes of the device

    @classmethod
    def of(cls, config: RunConfig, room: float, lengths: Lengths, processes: int = 1, device: str = "cuda") -> Fit:
        """Raises UserError for more processes than groups, or a model without a configuration."""
        groups = config.rollouts // config.group_size
        if groups < processes:
            raise UserError(f"--processes: {groups} groups of rollouts cannot be shared by {processes} processes")
        meta = MetaModel.of(config)
        # An engine beside the trainer is given whole weights, so each process must have them.
        in_parts = processes > 1 and config.rollout.engine == "transformers"
        memory = Memory.of(meta, lengths, device=device, processes=processes, in_parts=in_parts)
        return cls(config, lengths, Rows.of(meta, lengths, processes), memory, processes, room)

    @property
    def fits(self) -> bool:
        return self.memory.peak <= SPARE * self.room

    def advice(self) -> str:
        """Says whether it fits, and what to lower first where it does not."""
        share = self.memory.peak / self.room
        figures = f"{size_words(self.memory.peak)} of {size_words(self.room)}, {share:.0%}"
        return f"fits: {figures}" if self.fits else f"does not fit: {figures}. {self._remedy()}"

    def assumptions(self) -> list[str]:
        """All that was taken for granted, each with its value."""
        n, lines = self.lengths, []
        lines.append(
            f"student's prompts {n.student_prompt} tokens, teachers' {n.teacher_prompt}, completions {n.completion}"
            " (--student-prompt, --teacher-prompt, --completion; sgsd train CONFIG --dry-run counts prompts)"
        )
        lines.append("memory is what tensors take; on a CPU libraries and the allocator's holes come on top")
        if self.config.rollout.engine != "transformers":
            lines.append("the memory of an engine beside the trainer is not counted")
        if self.processes > 1:
            hold = "hold the weights in parts (FSDP)" if self.memory.whole else "each hold the whole weights (ddp)"
            lines.append(f"{self.processes} processes {hold}")
        return lines

    def _remedy(self) -> str:
        """Names what to lower first, by what is largest at the worst moment."""
        memory, worst, room = self.memory, self.memory.worst, self.room * SPARE
        if memory.standing + memory.gradients >= room:
            if self.config.lora is not None:
                return (
                    "The weights alone are too much: model.dtype bfloat16, or more processes with a part each (FSDP)."
                )
            return (
                "The weights, their gradients and AdamW's moments alone are too much: train an adapter (lora), or"
                f" hold them in parts over more than {self.processes} processes (configs/accelerate/fsdp2.yaml)."
            )
        if worst == "optimizer's step":
            return "AdamW's step needs the most: train fewer weights (lora), or hold them in parts over more processes."
        if worst == "student's pass" and not self.config.model.gradient_checkpointing:
            return "Set model.gradient_checkpointing: true, which computes activations again instead of keeping them."
        left = room - memory.standing
        if worst == "sampling" and left <= memory.whole:
            gathers = f"To sample, each process gathers the whole weights, {size_words(memory.whole)}, which"
            if memory.whole >= room:
                return f"{gathers} do not fit at all: model.dtype bfloat16, or a smaller model."
            return (
                f"{gathers} do not fit beside its part of the rest: more than {self.processes} processes, or vLLM under"
                " a launch that keeps weights whole (rollout.engine vllm, configs/accelerate/ddp.yaml)."
            )
        return self._lower_budget(worst, left)

    def _lower_budget(self, worst: str, left: float) -> str:
        """Says by how much: bytes grow as tokens do, and a budget that is not filled is lowered from what is in it."""
        memory, rows = self.memory, self.rows
        key, batches, fixed = {
            "sampling": ("rollout_tokens", memory.drawn, memory.whole),
            "teachers' pass": (
                "teacher_tokens",
                (Batch(rows.per_teacher, self.lengths.teacher, memory.teachers),),
                memory.gathered,
            ),
            # In smaller micro-batches: all but the first find gradients.
            "student's pass": (
                "student_tokens",
                (Batch(rows.per_student, self.lengths.student, memory.student),),
                memory.gathered + memory.gradients,
            ),
        }[worst]
        left -= fixed
        fitting = {batch: int(batch.tokens * left / batch.size) for batch in batches if batch.size > left}
        if limits := [batch.limit for batch, tokens in fitting.items() if tokens < batch.width]:
            return f"A single row of compute.{key} is too much: lower {' and '.join(limits)}, or prompts.max_tokens."
        return f"Lower compute.{key} first: {getattr(self.config.compute, key):,} → {min(fitting.values()):,}."


def assumed_lengths(
    config: RunConfig,
    student_prompt: int | None = None,
    teacher_prompt: int | None = None,
    completion: int | None = None,
) -> Lengths:
    """The lengths that are given, and for the rest the longest completions and middling prompts."""
    most = config.sampling.max_tokens
    return Lengths(
        student_prompt or min(STUDENT_PROMPT, config.prompts.max_tokens),
        teacher_prompt or min(TEACHER_PROMPT, config.prompts.max_tokens),
        min(most, completion or most),
        most,
    )
