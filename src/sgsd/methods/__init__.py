"""The maths: objectives as pure functions, methods as declarations."""

from sgsd.methods.losses import SgsdResult, generalized_jsd, sgsd_loss, sgsd_topk_loss
from sgsd.methods.method import Method
from sgsd.methods.zoo import ZOO, build

__all__ = ["ZOO", "Method", "SgsdResult", "build", "generalized_jsd", "sgsd_loss", "sgsd_topk_loss"]
