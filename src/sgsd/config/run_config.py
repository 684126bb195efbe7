"""The configuration of a run: strict, typed, in one place. An unknown key is an error that names the nearest one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from sgsd.config.sections import (
    BankConfig,
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    EvaluationConfig,
    GrowthConfig,
    LoraConfig,
    ModelConfig,
    OptimizerConfig,
    PromptConfig,
    RolloutConfig,
    SamplingConfig,
    Section,
    TeacherConfig,
    TrackConfig,
    VerifierConfig,
    WriterConfig,
)
from sgsd.methods import Method, build
from sgsd.methods.zoo import defaults, nearest, recipe
from sgsd.records.guards import GuardsConfig
from sgsd.types import UserError

#: Which engines each of these settings of rollouts means something to.
ENGINE_KEYS = {
    ("vllm",): ("memory", "tensor_parallel", "sleep", "options"),
    ("server",): ("base_url", "key_variable", "concurrency"),
    ("vllm", "server"): ("overlap", "dtype", "context", "folder", "start_timeout", "timeout", "retries"),
}
#: What of vLLM's options follows from other settings, or must be as it is for rollouts to be the policy's.
RESERVED_OPTIONS = {
    "model", "revision", "dtype", "seed", "max_model_len", "tensor_parallel_size", "gpu_memory_utilization",
    "generation_config", "logprobs_mode", "enable_lora", "max_lora_rank", "max_loras", "enable_sleep_mode",
    "worker_extension_cls", "trust_remote_code", "tokenizer_revision",
}  # fmt: skip


#: What pydantic says of a call's arguments that is not about the value of one.
NOT_ITS_TYPE = ("unexpected_keyword_argument", "missing_argument")


class RunConfig(Section):
    """Everything that decides a run."""

    name: str = "run"
    seed: NonNegativeInt = 0
    output: str | None = None
    """Run folder; none: runs/NAME."""
    steps: NonNegativeInt = 200
    """Updates of the policy; 0: evaluate it as it is."""
    rollouts: PositiveInt = 16
    """Rollouts a step, over all processes."""
    group: PositiveInt | None = None
    """Rollouts of one problem in a step; none: the method's own."""
    logged_rollouts: NonNegativeInt = 1
    """Rollouts written to rollouts.jsonl at each step, with every token's numbers."""
    method: dict[str, Any] = Field(default={"name": "sgsd"})
    """A method's name and its options."""
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
    growth: GrowthConfig = GrowthConfig()
    guards: GuardsConfig = GuardsConfig()

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
        # An option that does not exist, or is not there, gets its own message from `build`, which knows them all.
        if all(problem["type"] not in NOT_ITS_TYPE for problem in error.errors()):
            raise UserError(f"{where}: method.{_first_problem(error)}") from error
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _lay_over(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    here = raw
    for parent in parents:
        if here.get(parent) is None:  # absent, or left out by name: `lora: null`
            here[parent] = {}
        here = here[parent]
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
    if method.compares_siblings and config.group_size < 2:
        raise UserError(f"{where}: group: {method.name} compares rollouts of one problem and needs at least 2")
    if method.retrieves and config.bank.path is None:
        raise UserError(f"{where}: bank.path: {method.name} retrieves skills; name a bank file")
    if config.evaluation.skills and config.bank.path is None:
        raise UserError(f"{where}: bank.path: evaluation.skills shows pairs of a bank; name its file")
    if config.evaluation.skills and config.evaluation.data is None:
        raise UserError(f"{where}: evaluation.data: evaluation.skills asks for an evaluation; name its data")
    if config.steps == 0 and config.evaluation.data is None:
        raise UserError(f"{where}: steps: with 0 nothing is trained; name evaluation.data to measure the model")
    if config.track.entity is not None and config.track.to != "wandb":
        raise UserError(f"{where}: track.entity: only wandb has teams; leave it out, or set track.to to wandb")
    plain = config.data.layout in ("auto", "plain") and not config.data.path.startswith("lab:")
    needs = method.context.all_needs()
    if ("solution" in needs or method.on_policy < 1) and plain and not config.data.solution:
        does = "shows" if "solution" in needs else "learns from"
        raise UserError(
            f"{where}: data.solution: {method.name} {does} the reference solution; name its column,"
            " or by data.layout a layout that brings one"
        )
    if config.data.rubric and not plain:
        raise UserError(f"{where}: data.rubric: only rows of data.layout plain have such a column; leave it out")
    if "rubric" in needs and not config.data.rubric and not config.data.path.startswith("lab:"):
        raise UserError(
            f"{where}: data.rubric: {method.name} shows each problem's rubric; name its column (data.layout: plain)"
        )
    for key, data in (("data", config.data), ("evaluation.data", config.evaluation.data)):
        of_gym, by_gym = data is not None and data.path.startswith("gym:"), config.verifier.name == "gym"
        if data is not None and of_gym != by_gym and config.verifier.name in ("gym", "math"):
            raise UserError(f"{where}: verifier.name: gym grades gym tasks and nothing else, and {key} is {data.path}")
    if config.writer.kind != "policy" and config.writer.model is None:
        raise UserError(f"{where}: writer.model: a writer of kind {config.writer.kind} needs the name of its model")
    if config.writer.kind != "server" and (config.writer.base_url or config.writer.azure_version):
        raise UserError(f"{where}: writer.base_url: only a writer of kind server has an address")
    if config.writer.kind != "vllm" and config.writer.options:
        raise UserError(f"{where}: writer.options: only a writer of kind vllm takes options")
    check_rollout(config, where)
    if config.model.attention == "flash_attention_2" and config.model.dtype == "float32":
        raise UserError(f"{where}: model.attention: flash_attention_2 needs dtype bfloat16")
    if config.lora is None and config.model.dtype == "bfloat16":
        raise UserError(
            f"{where}: model.dtype: where all weights train, bfloat16 rounds their small updates away; use float32"
            " (accelerate launch --mixed_precision bf16 still computes in bfloat16)"
        )


def check_rollout(config: RunConfig, where: str) -> None:
    """Settings that the engine has no use for are refused, not passed over."""
    rollout = config.rollout
    for engines, keys in ENGINE_KEYS.items():
        for key in keys:
            if rollout.engine not in engines and getattr(rollout, key) != RolloutConfig.model_fields[key].get_default():
                means = " and ".join(engines)
                raise UserError(f"{where}: rollout.{key}: means something to {means}, not to engine {rollout.engine}")
    if rollout.engine == "server" and not rollout.base_url:
        raise UserError(f"{where}: rollout.base_url: where is the server? for instance http://127.0.0.1:8000/v1")
    if rollout.overlap and rollout.sleep is not None:
        raise UserError(
            f"{where}: rollout.sleep: with rollout.overlap the engine is never idle; leave out one of the two"
        )
    if rollout.sleep == 2 and config.lora is not None:
        raise UserError(f"{where}: rollout.sleep: 2 forgets the weights under the adapter; use 1")
    longest = config.prompts.max_tokens + config.sampling.max_tokens
    if rollout.context is not None and rollout.context < longest:
        raise UserError(
            f"{where}: rollout.context: prompts.max_tokens and sampling.max_tokens together are {longest},"
            f" {rollout.context} is less"
        )
    if set(rollout.options) & RESERVED_OPTIONS:
        named = sorted(set(rollout.options) & RESERVED_OPTIONS)[0]
        raise UserError(f"{where}: rollout.options: {named} is the engine's own to say; see docs/vllm.md")
