"""The maths: methods as declarations, losses as equations. The equations are imported when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sgsd.methods.method import LossInputs, LossOutputs, Method, Objective
from sgsd.methods.registry import RECIPES, build

if TYPE_CHECKING:
    from sgsd.methods.advantages import group_advantages
    from sgsd.methods.losses import clipped_policy_losses, generalized_jsd, sgsd_loss

__all__ = [
    "RECIPES",
    "LossInputs",
    "LossOutputs",
    "Method",
    "Objective",
    "build",
    "clipped_policy_losses",
    "generalized_jsd",
    "group_advantages",
    "sgsd_loss",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sgsd.methods import advantages, losses  # they import torch, which declarations do without

    return getattr(advantages if name == "group_advantages" else losses, name)
