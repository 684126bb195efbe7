"""A run on a machine that is not here, by arithmetic: operations, times at a stated utilisation, memory, and fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from sgsd.config.run_config import RunConfig
from sgsd.plan.arithmetic import Lengths, Operations, Rows, Shape, bytes_in
from sgsd.plan.devices import Device, device_named
from sgsd.plan.memory import Batch, Memory, size_words
from sgsd.plan.meta_pass import Cost, Ghost
from sgsd.rollout import Sampling
from sgsd.types import UserError

STUDENT_PROMPT, TEACHER_PROMPT = 200, 600  # tokens, where nobody says
OPTIMIZER_WRITES = 6  # bytes that AdamW writes for each byte of what trains
GENERATE_CALLS = 60  # kernels that `generate` calls a token besides the model's
SPARE = 0.9  # of a device's memory; the rest goes to its context and to holes between tensors


@dataclass(frozen=True)
class Estimate:
    """What arithmetic says of a run. Seconds are of a step, by phase; operations of one process in a step."""

    config: RunConfig
    device: Device
    processes: int
    lengths: Lengths
    shape: Shape
    rows: Rows
    operations: Operations
    seconds: Mapping[str, float]
    evaluation_seconds: float  # of one evaluation; 0 where none is configured
    memory: Memory
    parameters: int
    trained: int

    @classmethod
    def of(
        cls,
        config: RunConfig,
        device: str | Device,
        lengths: Lengths | None = None,
        *,
        processes: int = 1,
        utilisation: float | None = None,
    ) -> Estimate:
        """Raises UserError for an unknown device, more processes than groups, or a model without a configuration."""
        if config.rollouts // config.group_size < processes:
            groups = config.rollouts // config.group_size
            raise UserError(f"--processes: {groups} groups of rollouts cannot be shared by {processes} processes")
        if config.compute.threads is not None:
            torch.set_num_threads(config.compute.threads)
        ghost = Ghost.of(config)
        shape = Shape.of(ghost)
        if isinstance(device, str):
            device = device_named(device, dtype=getattr(torch, config.model.dtype), width=shape.hidden)
        if utilisation is not None:
            device = replace(device, utilisation=utilisation)
        lengths = lengths or assumed_lengths(config)
        rows = Rows.of(ghost, lengths, processes, device.kind)
        operations = Operations.of(ghost.method, shape, rows, lengths)
        clock = _Clock(ghost, shape, device)
        # An engine beside the trainer is given whole weights, so each process must have them.
        in_parts = processes > 1 and config.rollout.engine == "transformers"
        weights = list(ghost.whole.model.parameters())
        trained = [p for p in weights if p.requires_grad]
        return cls(
            config=config,
            device=device,
            processes=processes,
            lengths=lengths,
            shape=shape,
            rows=rows,
            operations=operations,
            seconds={
                "sample": clock.sample(rows.rollouts, lengths, config.sampling.to_sampling()),
                "score": clock.score(rows, lengths, operations),
                "update": clock.update(rows, lengths, operations, bytes_in(trained) / (processes if in_parts else 1)),
            },
            evaluation_seconds=clock.evaluation(lengths, processes),
            memory=Memory.of(ghost, lengths, device=device.kind, processes=processes, in_parts=in_parts),
            parameters=sum(p.numel() for p in weights),
            trained=sum(p.numel() for p in trained),
        )

    @property
    def step(self) -> float:
        return sum(self.seconds.values())

    @property
    def evaluations(self) -> int:
        return evaluations(self.config)

    @property
    def run(self) -> float:
        return self.config.steps * self.step + self.evaluations * self.evaluation_seconds

    @property
    def fits(self) -> bool:
        return self.memory.peak <= SPARE * self.device.memory

    def advice(self) -> str:
        """Whether it fits, and what to lower first where it does not."""
        share = self.memory.peak / self.device.memory
        said = f"{size_words(self.memory.peak)} of {size_words(self.device.memory)}, {share:.0%}"
        if self.fits:
            return f"fits: {said}"
        return f"does not fit: {said}. {self._remedy()}"

    def _remedy(self) -> str:
        return remedy(self.config, self.memory, self.rows, self.lengths, self.device.memory, self.processes)

    def assumptions(self) -> list[str]:
        """All that was taken for granted, each with its value."""
        d, n = self.device, self.lengths
        lines = [
            f"device: {d.flops / 1e12:,.4g} TFLOP/s, {d.bandwidth / 1e12:,.3g} TB/s, {d.memory / 1e9:,.0f} GB:"
            f" {d.source}",
            f"reached: {d.utilisation:.0%} of the FLOP/s (--utilisation), {d.bandwidth_share:.0%} of the bandwidth",
            f"{d.dispatch * 1e6:.1f} µs for Python to start a kernel, "
            + ("while the last one runs" if d.queues else "while nothing else runs"),
            f"student's prompts {n.student_prompt} tokens, teachers' {n.teacher_prompt} (--student-prompt,"
            " --teacher-prompt; sgsd train CONFIG --dry-run counts them)",
            f"completions {n.completion} tokens in the mean, {n.longest} the longest of a batch (--completion,"
            " --longest)",
        ]
        if d.queues and self.config.model.dtype == "float32":
            lines.append(
                "float32 weights compute in bfloat16 (accelerate --mixed_precision bf16); memory as in float32"
            )
        if not d.queues:
            lines.append("memory is what tensors take; libraries and the allocator's holes come on top (docs/plan.md)")
        if self.config.rollout.engine != "transformers":
            lines.append("an engine beside the trainer starts kernels in no time; its own memory is not counted")
        if self.processes > 1:
            hold = "hold the weights in parts (FSDP)" if self.memory.whole else "each hold the whole weights (ddp)"
            lines.append(f"{self.processes} processes {hold}; what they send takes no time")
        return [
            *lines,
            "not counted: verifying, retrieval, checkpoints, loading; what a teacher or writer samples; pads",
        ]


@dataclass(frozen=True)
class _Clock:
    """Seconds on one device."""

    ghost: Ghost
    shape: Shape
    device: Device

    def sample(self, rollouts: int, lengths: Lengths, sampling: Sampling) -> float:
        """Prefill, then a step a token until the longest of a batch has ended: weights and cache are read each time."""
        config, shape, item = self.ghost.config, self.shape, getattr(torch, self.ghost.config.model.dtype).itemsize
        width = lengths.student_prompt + sampling.max_tokens
        most = max(1, min(rollouts, config.compute.rollout_tokens // width))
        middle = lengths.student_prompt + lengths.longest // 2
        seconds = 0.0
        for rows, batches in ((most, rollouts // most), (rollouts % most, 1)):
            if not rows or not batches:
                continue
            prompts = rows * lengths.student_prompt
            prefill = shape.forward(prompts, lengths.student_prompt, shape.adapter) + shape.head(rows, 1)
            products = shape.forward(rows, middle, shape.adapter) + shape.head(rows, 1)
            cost = self.ghost.decode_step(rows, middle, sampling)
            calls = 0.0 if config.rollout.engine != "transformers" else cost.operations + GENERATE_CALLS
            read = item * (shape.body + shape.adapter + shape.vocabulary * shape.hidden + rows * middle * shape.cached)
            token = self.device.seconds(products, replace(cost, operations=calls), read=read)
            first = self.device.seconds(prefill, self.ghost.teacher_pass(rows, lengths.student_prompt))
            seconds += batches * (first + lengths.longest * token)
        return seconds

    def score(self, rows: Rows, lengths: Lengths, operations: Operations) -> float:
        if not rows.teachers:
            return 0.0
        cost, passes = self.ghost.teacher_pass(rows.per_teacher, lengths.teacher), rows.teachers / rows.per_teacher
        return self.device.seconds(operations.score, cost, passes)

    def update(self, rows: Rows, lengths: Lengths, operations: Operations, trained: float) -> float:
        cost = self.ghost.student_pass(rows.per_student, lengths.student)
        passes = rows.iterations * rows.rollouts / rows.per_student
        moved = self.device.seconds(0.0, Cost(0.0, OPTIMIZER_WRITES * trained, 0.0), rows.iterations)
        return self.device.seconds(operations.update, cost, passes) + moved

    def evaluation(self, lengths: Lengths, processes: int) -> float:
        """Greedy and sampled answers: all as long as may be where that is longer than in training, else cut to it."""
        e = self.ghost.config.evaluation
        if e.data is None:
            return 0.0
        most = e.sampling.max_tokens
        lengths = lengths.at(most) if most > self.ghost.config.sampling.max_tokens else lengths.cut(most)
        problems, sampling = math.ceil(e.problems / processes), e.sampling.to_sampling()
        return sum(self.sample(problems * samples, lengths, sampling) for samples in (1, e.samples))


def assumed_lengths(
    config: RunConfig,
    student_prompt: int | None = None,
    teacher_prompt: int | None = None,
    completion: int | None = None,
    longest: int | None = None,
) -> Lengths:
    """What is known of lengths, and for the rest the longest completions and middling prompts."""
    most = config.sampling.max_tokens
    mean = min(most, completion or most)
    return Lengths(
        student_prompt or min(STUDENT_PROMPT, config.prompts.max_tokens),
        teacher_prompt or min(TEACHER_PROMPT, config.prompts.max_tokens),
        mean,
        min(most, max(mean, longest or most)),
    )


def evaluations(config: RunConfig) -> int:
    """How many a run makes: before, during and after."""
    if config.evaluation.data is None:
        return 0
    every = config.evaluation.every
    between = (config.steps - 1) // every if every and config.steps else 0
    return between + (2 if config.steps else 1)


def remedy(config: RunConfig, memory: Memory, rows: Rows, lengths: Lengths, room: float, processes: int = 1) -> str:
    """What to lower first, by what is largest at the worst moment."""
    room = room * SPARE
    if memory.standing + memory.gradients >= room:
        if config.lora is None:
            return (
                "The weights, their gradients and AdamW's moments alone are too much: train an adapter (lora), or"
                f" hold them in parts over more than {processes} processes (configs/accelerate/fsdp2.yaml)."
            )
        return "The weights alone are too much: model.dtype bfloat16, or more processes that hold them in parts (FSDP)."
    worst = memory.worst
    if worst == "optimizer's step":
        return "AdamW's step needs the most: train fewer weights (lora), or hold them in parts over more processes."
    if worst == "student's pass" and not config.model.gradient_checkpointing:
        return "Set model.gradient_checkpointing: true, which computes activations again instead of keeping them."
    teachers = Batch(rows.per_teacher, lengths.teacher, memory.teachers)
    student = Batch(rows.per_student, lengths.student, memory.student)
    key, batches, fixed = {
        "sampling": ("rollout_tokens", memory.drawn, memory.whole),
        "teachers' pass": ("teacher_tokens", (teachers,), memory.gathered),
        # In smaller passes: all but the first find gradients.
        "student's pass": ("student_tokens", (student,), memory.gathered + memory.gradients),
    }[worst]
    left = room - memory.standing - fixed
    if worst == "sampling" and left <= 0:
        gathers = f"To sample, each process gathers the whole weights, {size_words(memory.whole)}, which"
        if memory.whole >= room:
            return f"{gathers} do not fit at all: model.dtype bfloat16, or a smaller model."
        return (
            f"{gathers} do not fit beside its part of the rest: more than {processes} processes, or vLLM under a launch"
            " that keeps weights whole (rollout.engine vllm, configs/accelerate/ddp.yaml)."
        )
    # Bytes grow as tokens do; a budget that is not filled is lowered from what is in it.
    fitting = {batch: int(batch.tokens * left / batch.size) for batch in batches if batch.size > left}
    if limits := [batch.limit for batch, tokens in fitting.items() if tokens < batch.width]:
        return f"A single row of compute.{key} is too much: lower {' and '.join(limits)}, or prompts.max_tokens."
    return f"Lower compute.{key} first: {getattr(config.compute, key):,} → {min(fitting.values()):,}."
