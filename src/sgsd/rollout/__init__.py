"""Rollouts: engines that sample, each completion from a seed of its own."""

from sgsd.rollout.engine import Engine, Sampling, ScriptedEngine
from sgsd.rollout.transformers_engine import TransformersEngine

__all__ = ["Engine", "Sampling", "ScriptedEngine", "TransformersEngine"]
