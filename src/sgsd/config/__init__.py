"""The configuration of a run: its sections, its file, and the checks across sections."""

from sgsd.config.loading import load_config, make_config, read_saved
from sgsd.config.migrate import migrate, migrate_text
from sgsd.config.run_config import RunConfig
from sgsd.config.yaml_text import parse_yaml

__all__ = ["RunConfig", "load_config", "make_config", "migrate", "migrate_text", "parse_yaml", "read_saved"]
