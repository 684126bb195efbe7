"""Rollouts: engines that sample, each completion from a seed of its own."""

from sgsd.rollout.background import BackgroundEngine
from sgsd.rollout.engine import Engine, EngineError, ScriptedEngine
from sgsd.rollout.server_engine import ServerEngine, ServerSettings
from sgsd.rollout.snapshots import Snapshots, Untrained
from sgsd.rollout.transformers_engine import TransformersEngine, end_token_ids
from sgsd.rollout.vllm_engine import VllmEngine, VllmSettings
from sgsd.types import Sampling

__all__ = [
    "BackgroundEngine",
    "Engine",
    "EngineError",
    "Sampling",
    "ScriptedEngine",
    "ServerEngine",
    "ServerSettings",
    "Snapshots",
    "TransformersEngine",
    "Untrained",
    "VllmEngine",
    "VllmSettings",
    "end_token_ids",
]
