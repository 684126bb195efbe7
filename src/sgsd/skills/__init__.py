"""Growth: from verified rollouts to skills. Memories, writers, extraction, merging, cold start, upkeep during a run."""

from sgsd.skills.build import BuildResult, BuildSettings, Forecast, Progress, build_bank, forecast, merge_kinds
from sgsd.skills.extraction import ExtractSettings, extract
from sgsd.skills.memories import Memory, MemoryFile, memory_of
from sgsd.skills.merge import MergeSettings, merge
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
    "Memory",
    "MemoryFile",
    "MergeSettings",
    "Progress",
    "Request",
    "ScriptedWriter",
    "ServerSettings",
    "ServerWriter",
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
]
