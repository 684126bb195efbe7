"""The maths: objectives as pure functions, methods as declarations."""

from sgsd.method.losses import SgsdResult, generalized_jsd, sgsd_loss, sgsd_topk_loss
from sgsd.method.spec import Method
from sgsd.method.zoo import ZOO, build

__all__ = ["ZOO", "Method", "SgsdResult", "build", "generalized_jsd", "sgsd_loss", "sgsd_topk_loss"]
