"""Skills: from verified rollouts to a bank. Memories, writers, extraction, merging, cold start, upkeep in a run."""

from sgsd.skills.build import BuildResult, BuildSettings, Forecast, Progress, build_bank, forecast, merge_kinds
from sgsd.skills.extraction import ExtractSettings, LeakFilter, extract
from sgsd.skills.memories import Memory, MemoryFile, MemorySampler, memory_of
from sgsd.skills.merge import Layer, MergeSettings, merge
from sgsd.skills.upkeep import UpkeepResult, UpkeepSettings, update_bank
from sgsd.skills.writers.answer_cache import AnswerCache
from sgsd.skills.writers.base import Request, ScriptedWriter, Writer, WriterFailure, WriterReply
from sgsd.skills.writers.engine_writer import EngineWriter
from sgsd.skills.writers.openai_writer import ServerSettings, ServerWriter
from sgsd.skills.writers.writer_client import Usage, WriterClient, WriterError

TEMPLATES = ("extract_success", "extract_failure", "merge_skills", "merge_mistakes", "repair")

__all__ = [
    "TEMPLATES",
    "AnswerCache",
    "BuildResult",
    "BuildSettings",
    "EngineWriter",
    "ExtractSettings",
    "Forecast",
    "Layer",
    "LeakFilter",
    "Memory",
    "MemoryFile",
    "MemorySampler",
    "MergeSettings",
    "Progress",
    "Request",
    "ScriptedWriter",
    "ServerSettings",
    "ServerWriter",
    "UpkeepResult",
    "UpkeepSettings",
    "Usage",
    "Writer",
    "WriterClient",
    "WriterError",
    "WriterFailure",
    "WriterReply",
    "build_bank",
    "extract",
    "forecast",
    "memory_of",
    "merge",
    "merge_kinds",
    "update_bank",
]
