"""Skill-conditioned gated self-distillation: the trainer, the skill bank and the instrument.

Names are loaded when they are used, so that `import sgsd` is quick and imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgsd.bank.store import open_bank
    from sgsd.config.loading import load_config, make_config
    from sgsd.config.run_config import RunConfig
    from sgsd.methods.losses import sgsd_loss
    from sgsd.scorer.texts import score
    from sgsd.train.result import TrainResult
    from sgsd.train.run import train
    from sgsd.types import UserError
    from sgsd.verify.custom import load_verifier

__version__ = "0.1.0"
__all__ = [
    "RunConfig",
    "TrainResult",
    "UserError",
    "load_config",
    "load_verifier",
    "make_config",
    "open_bank",
    "score",
    "sgsd_loss",
    "train",
]

_HOMES = {
    "RunConfig": "sgsd.config.run_config",
    "TrainResult": "sgsd.train.result",
    "UserError": "sgsd.types",
    "load_config": "sgsd.config.loading",
    "load_verifier": "sgsd.verify.custom",
    "make_config": "sgsd.config.loading",
    "open_bank": "sgsd.bank.store",
    "score": "sgsd.scorer.texts",
    "sgsd_loss": "sgsd.methods.losses",
}


def __getattr__(name: str) -> Any:
    if name == "train":
        return import_module("sgsd.train")  # the package itself can be called
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
