"""Growth: from verified rollouts to skills. Memories, writers, extraction, merging, cold start, upkeep during a run."""

from sgsd.growth.build import BuildSettings, Built, Forecast, Progress, build_bank, forecast, merge_kinds
from sgsd.growth.cache import AnswerCache
from sgsd.growth.desk import Bill, Desk, WriterError
from sgsd.growth.engine_writer import EngineWriter
from sgsd.growth.extract import ExtractSettings, extract
from sgsd.growth.memory import Memory, MemoryFile, memory_of
from sgsd.growth.merge import MergeSettings, merge
from sgsd.growth.openai_writer import ServerSettings, ServerWriter
from sgsd.growth.writer import Failed, Request, ScriptedWriter, Writer, Written

TEMPLATES = ("extract_success", "extract_failure", "merge_skills", "merge_mistakes", "repair")

__all__ = [
    "TEMPLATES",
    "AnswerCache",
    "Bill",
    "BuildSettings",
    "Built",
    "Desk",
    "EngineWriter",
    "ExtractSettings",
    "Failed",
    "Forecast",
    "Memory",
    "MemoryFile",
    "MergeSettings",
    "Progress",
    "Request",
    "ScriptedWriter",
    "ServerSettings",
    "ServerWriter",
    "Writer",
    "WriterError",
    "Written",
    "build_bank",
    "extract",
    "forecast",
    "memory_of",
    "merge",
    "merge_kinds",
]
