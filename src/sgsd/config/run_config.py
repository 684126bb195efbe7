"""The configuration of a run: everything that decides it, typed and strict."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from sgsd.config.base import Section
from sgsd.config.guards_config import GuardsConfig
from sgsd.config.rollout_config import RolloutConfig
from sgsd.config.sections import (
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    EvaluationConfig,
    LoraConfig,
    ModelConfig,
    OptimizerConfig,
    PromptConfig,
    SamplingConfig,
    TeacherConfig,
    TrackConfig,
    VerifierConfig,
)
from sgsd.config.skills_config import BankConfig, SkillsConfig, WriterConfig
from sgsd.config.yaml_text import dump_yaml
from sgsd.methods import Method, build


class RunConfig(Section):
    """Everything that decides a run."""

    format: Literal[2] = 2
    """Format of the file; a file without it is read as format 1, with the old names of keys."""
    name: str = "run"
    """Name of the run."""
    seed: NonNegativeInt = 0
    """Seed of every rollout, of the order of problems and of fresh weights."""
    output: str | None = None
    """Run folder; none: runs/NAME."""
    steps: NonNegativeInt = 200
    """Updates of the policy; 0: evaluate it as it is."""
    rollouts: PositiveInt = 16
    """Rollouts a step, over all processes."""
    group: PositiveInt | None = None
    """Rollouts of one problem in a step; none: the method's own."""
    mask_truncated: bool = False
    """Leave completions that their length cut off out of the loss; they still count in their group's mean."""
    logged_rollouts: NonNegativeInt = 1
    """Rollouts a step that are written to rollouts.jsonl, with every token's numbers."""
    method: dict[str, Any] = Field(default={"name": "sgsd"})
    """Name and options of the method; the options are listed below by method."""
    model: ModelConfig = ModelConfig()
    lora: LoraConfig | None = LoraConfig()
    data: DataConfig = DataConfig()
    prompts: PromptConfig = PromptConfig()
    sampling: SamplingConfig = SamplingConfig()
    rollout: RolloutConfig = RolloutConfig()
    verifier: VerifierConfig = VerifierConfig()
    bank: BankConfig = BankConfig()
    teacher: TeacherConfig = TeacherConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    compute: ComputeConfig = ComputeConfig()
    track: TrackConfig = TrackConfig()
    writer: WriterConfig = WriterConfig()
    skills: SkillsConfig = SkillsConfig()
    guards: GuardsConfig = GuardsConfig()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.output or f"runs/{self.name}")

    def build_method(self) -> Method:
        """The method with its options. Raises UserError where they do not make one."""
        return build(self.method["name"], **{key: value for key, value in self.method.items() if key != "name"})

    @property
    def group_size(self) -> int:
        """Rollouts of one problem in a step."""
        return self.group or self.build_method().group

    def to_yaml(self) -> str:
        """The whole configuration as a config file."""
        return dump_yaml(self.model_dump(mode="json"))
