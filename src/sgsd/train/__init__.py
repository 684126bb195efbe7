"""Training: configuration, the loop, checkpoints."""

from sgsd.config.loading import load_config, make_config
from sgsd.config.run_config import RunConfig
from sgsd.train.run import run_training

__all__ = ["RunConfig", "load_config", "make_config", "run_training"]
