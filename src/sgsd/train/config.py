"""The configuration of a run: strict, typed, in one place. An unknown key is an error that names the nearest one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from sgsd.method import Method, build
from sgsd.method.spec import SkillPairs
from sgsd.method.zoo import defaults, nearest, recipe
from sgsd.rollout import Sampling
from sgsd.types import UserError


class Section(BaseModel):
    """A part of the configuration: no unknown keys, no silent conversions, no changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelConfig(Section):
    """Which weights to train."""

    path: str = "lab"
    """Hub name, local folder, or "lab" for the bundled policy."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False
    """Run code that comes with the model; off unless you have read it."""


class LoraConfig(Section):
    """A low-rank adapter; without this section all weights train."""

    rank: PositiveInt = 64
    alpha: PositiveInt = 128
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class DataConfig(Section):
    """Where problems come from."""

    path: str = "lab:train"
    """JSONL, JSON, Parquet or CSV file, hub data set, or lab:train, lab:held-out."""
    split: str = "train"
    revision: str | None = None
    problem: str = "problem"
    """Column of the problem's text."""
    answer: str = "answer"
    """Column of the reference answer."""
    solution: str | None = None
    """Column of a reference solution, for methods that show one."""
    limit: PositiveInt | None = None


class PromptConfig(Section):
    """Wording and thinking modes."""

    folder: str = "math"
    """A bundled set (math, lab) or your own folder of templates."""
    student_thinking: bool = False
    teacher_thinking: bool = True
    evaluation_thinking: bool = True
    max_tokens: PositiveInt = 4096
    """Longest prompt allowed; a longer one is an error, never cut."""


class SamplingConfig(Section):
    """How rollouts are drawn."""

    temperature: NonNegativeFloat = 1.0
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: NonNegativeInt = 0
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: PositiveFloat = 1.0
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    max_tokens: PositiveInt = 1024

    def to_sampling(self) -> Sampling:
        return Sampling(**self.model_dump())


class VerifierConfig(Section):
    """Who says right or wrong."""

    name: str = "math"
    """math, or module:callable of your own."""
    options: dict[str, Any] = {}
    """Handed to it by name; math knows timeout (seconds an answer) and workers."""


class BankConfig(Section):
    """The skill bank, for methods that retrieve from one."""

    path: str | None = None
    """JSON file or store, or "lab" for the bundled bank."""
    retrieval: Literal["bm25", "random"] = "bm25"


class OptimizerConfig(Section):
    """AdamW."""

    lr: PositiveFloat = 5e-6
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.0
    grad_clip: PositiveFloat = 0.1
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0


class TeacherConfig(Section):
    """Settings of teachers that are not the student itself."""

    ema_decay: float = Field(default=0.95, ge=0, lt=1)
    """What a teacher of kind "ema" keeps of itself at each step."""
    period: PositiveInt = 25
    """Steps between copies for a teacher of kind "periodic"."""


class EvaluationConfig(Section):
    """Held-out accuracy, before, during and after."""

    data: DataConfig | None = None
    problems: PositiveInt = 512
    samples: PositiveInt = 4
    every: NonNegativeInt = 0
    """Steps between evaluations; 0: only before and after."""
    sampling: SamplingConfig = SamplingConfig()


class CheckpointConfig(Section):
    """When to save."""

    every: NonNegativeInt = 0
    """Steps between checkpoints; 0: only at the end, or when interrupted."""
    keep: PositiveInt = 2


class ComputeConfig(Section):
    """How much goes through the model at a time; changes speed and memory, not results beyond rounding."""

    student_tokens: PositiveInt = 8192
    """Tokens in a pass that keeps activations for the gradient."""
    teacher_tokens: PositiveInt = 32768
    """Tokens in a pass without gradient."""
    rollout_tokens: PositiveInt = 65536
    """Rows × (prompt + completion) of a generation batch."""
    threads: PositiveInt | None = None
    """CPU threads; none: torch decides."""


class RunConfig(Section):
    """Everything that decides a run."""

    name: str = "run"
    seed: NonNegativeInt = 0
    output: str | None = None
    """Run folder; none: runs/NAME."""
    steps: PositiveInt = 200
    rollouts: PositiveInt = 16
    """Rollouts a step, over all processes."""
    group: PositiveInt | None = None
    """Rollouts of one problem in a step; none: the method's own."""
    logged_rollouts: NonNegativeInt = 1
    """Rollouts written to rollouts.jsonl at each step, with every token's numbers."""
    method: dict[str, Any] = {"name": "sgsd"}
    """A method's name and its options."""
    model: ModelConfig = ModelConfig()
    lora: LoraConfig | None = LoraConfig()
    data: DataConfig = DataConfig()
    prompts: PromptConfig = PromptConfig()
    sampling: SamplingConfig = SamplingConfig()
    verifier: VerifierConfig = VerifierConfig()
    bank: BankConfig = BankConfig()
    teacher: TeacherConfig = TeacherConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    compute: ComputeConfig = ComputeConfig()

    @property
    def folder(self) -> Path:
        return Path(self.output or f"runs/{self.name}")

    def build_method(self) -> Method:
        return build(self.method["name"], **{key: value for key, value in self.method.items() if key != "name"})

    @property
    def group_size(self) -> int:
        return self.group or self.build_method().group

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """YAML in which 5e-6 is a number and a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if repeated := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"the key {repeated[0]} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str, where: str) -> Any:
    """Read YAML.

    Raises:
        UserError: it is not YAML; the message names the line.
    """
    try:
        return yaml.load(text, _Loader)  # a subclass of SafeLoader: makes plain values only
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not readable as YAML: {' '.join(str(error).split())}") from error


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a config file and lay overrides ({"optimizer.lr": 1e-5}) over it.

    Raises:
        UserError: no such file, an unknown key, a wrong type, or choices that do not go together.
    """
    config = read_config(path, overrides)
    check_together(config, str(path))
    return config


def read_config(path: Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """`load_config` without the last check, for a caller who has more to lay over it. Raises UserError."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such config file")
    raw = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a config is a mapping of keys to values")
    for key, value in (overrides or {}).items():
        _lay_over(raw, key, value)
    return parse_config(raw, str(path))


def make_config(raw: Mapping[str, Any], where: str = "config") -> RunConfig:
    """Check a mapping and fill in what it leaves open, the method's own options included.

    Raises:
        UserError: an unknown key, a wrong type, or choices that do not go together.
    """
    config = parse_config(raw, where)
    check_together(config, where)
    return config


def parse_config(raw: Mapping[str, Any], where: str) -> RunConfig:
    """Keys and types only. Raises UserError."""
    try:
        config = RunConfig.model_validate(_tuples(raw))
    except pydantic.ValidationError as error:
        raise UserError(f"{where}: {_first_problem(error)}") from error
    if not isinstance(config.method.get("name"), str):
        raise UserError(f"{where}: method.name: say which method, for instance sgsd")
    method = {"name": config.method["name"], **defaults(config.method["name"]), **config.method}
    config = config.model_copy(update={"method": method})
    _check_option_types(method, where)
    return config


def _check_option_types(method: Mapping[str, Any], where: str) -> None:
    options = {key: value for key, value in method.items() if key != "name"}
    make = pydantic.validate_call(config=ConfigDict(strict=True))(recipe(method["name"]))
    try:
        make(**options)
    except pydantic.ValidationError as error:
        # An option that does not exist gets its own message from `build`, which knows the nearest one.
        if all(problem["type"] != "unexpected_keyword_argument" for problem in error.errors()):
            raise UserError(f"{where}: method.{_first_problem(error)}") from error
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _lay_over(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    here = raw
    for parent in parents:
        here = here.setdefault(parent, {})
        if not isinstance(here, dict):
            raise UserError(f"--{dotted}: {parent} is a single value and has no parts")
    here[last] = value


def _tuples(raw: Any) -> Any:
    """YAML has no tuples; betas is the only one, and strict typing would refuse a list."""
    optimizer = raw.get("optimizer") if isinstance(raw, Mapping) else None
    if isinstance(optimizer, Mapping) and isinstance(optimizer.get("betas"), list):
        return {**raw, "optimizer": {**optimizer, "betas": tuple(optimizer["betas"])}}
    return raw


def _first_problem(error: pydantic.ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    place = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        return f"{'.'.join(place)}: there is no such key; {nearest(place[-1], _keys_beside(place))}"
    given = problem.get("input")
    shown = f", not {given!r}" if not isinstance(given, (dict, BaseModel)) else ""
    return f"{'.'.join(place)}: {problem['msg'][0].lower()}{problem['msg'][1:]}{shown}"


def _keys_beside(place: Sequence[str]) -> list[str]:
    model: Any = RunConfig
    for part in place[:-1]:
        annotation = model.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
    return list(model.model_fields)


def check_together(config: RunConfig, where: str) -> None:
    """Impossible mixes fail here, before anything is loaded."""
    method = config.build_method()
    if config.rollouts % config.group_size:
        raise UserError(f"{where}: rollouts: {config.rollouts} is not a whole number of groups of {config.group_size}")
    if method.follows_outcome and config.group_size < 2:
        raise UserError(f"{where}: group: {method.name} compares rollouts of one problem and needs at least 2")
    if isinstance(method.context, SkillPairs) and config.bank.path is None:
        raise UserError(f"{where}: bank.path: {method.name} retrieves skills; name a bank file")
    if config.model.attention == "flash_attention_2" and config.model.dtype == "float32":
        raise UserError(f"{where}: model.attention: flash_attention_2 needs dtype bfloat16")
    if config.lora is None and config.model.dtype == "bfloat16":
        raise UserError(
            f"{where}: model.dtype: where all weights train, bfloat16 rounds their small updates away; use float32"
            " (accelerate launch --mixed_precision bf16 still computes in bfloat16)"
        )
