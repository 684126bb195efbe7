"""Training: the loop and what a run is made of. The package can be called: `sgsd.train(config)`."""

import sys
from types import ModuleType

from sgsd.config.loading import load_config, make_config
from sgsd.config.run_config import RunConfig
from sgsd.train.result import TrainResult
from sgsd.train.run import run_training, train

__all__ = ["RunConfig", "TrainResult", "load_config", "make_config", "run_training", "train"]


class _CallablePackage(ModuleType):
    """A package whose call is `train`: after any import of it, `sgsd.train` is this package."""

    __call__ = staticmethod(train)


sys.modules[__name__].__class__ = _CallablePackage
