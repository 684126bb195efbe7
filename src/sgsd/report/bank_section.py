"""The bank as the page shows it: what came of its items, and what the updates did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sgsd.report import svg
from sgsd.report.curves import wilson
from sgsd.report.labels import count, percent
from sgsd.report.svg import Frame
from sgsd.report.values import BankItem, BankUpdate, Estimate

MOST_ITEMS = 20  # half of them the best, half the worst
MOST_UPDATES = 20
SHARE = Frame(120, 18, left=5, right=5, top=0, bottom=0)


@dataclass(frozen=True, slots=True)
class BankPart:
    """The page's part on the bank; `gap` is the place in `items` where the middle was left out, 0 for nowhere."""

    lead: str
    items: tuple[BankItem, ...]
    gap: int
    left_out: int
    updates: tuple[BankUpdate, ...]
    earlier: int
    says: Mapping[str, str]  # by the id of an item


def bank_part(items: Sequence[BankItem], updates: Sequence[BankUpdate]) -> BankPart | None:
    """The best and the worst of the items that were shown, and the latest updates; None where there is neither."""
    shown = sorted((item for item in items if item.retrieved), key=_best_first)
    if not shown and not updates:
        return None
    cut = len(shown) > MOST_ITEMS
    half = MOST_ITEMS // 2
    chosen = [*shown[:half], *shown[-half:]] if cut else shown
    return BankPart(
        lead=_lead(items, shown),
        items=tuple(chosen),
        gap=half if cut else 0,
        left_out=len(shown) - len(chosen),
        updates=tuple(updates[-MOST_UPDATES:]),
        earlier=max(0, len(updates) - MOST_UPDATES),
        says={item.id: item.says for item in items},
    )


def _best_first(item: BankItem) -> tuple[float, str]:
    return (-item.standing if math.isfinite(item.standing) else math.inf), item.id


def _lead(items: Sequence[BankItem], shown: Sequence[BankItem]) -> str:
    if not items:
        return "What came of each item is written down when the run ends."
    learned = sum(item.learned is not None for item in items)
    gone = sum(not item.kept for item in items)
    told = [f"{len(shown):,} of {count(len(items), 'item')} were shown to a teacher"]
    told += [f"{learned:,} learned during the run"] if learned else []
    told += [f"{gone:,} no longer in the bank"] if gone else []
    return f"{'; '.join(told)}."


def share_validated(item: BankItem) -> Estimate | None:
    """The share validated among those validated or reversed; None where there are none."""
    judged = item.validated + item.reversed
    if not judged or math.isfinite(item.share):
        return Estimate(item.share, item.low, item.high) if judged else None
    return wilson(item.validated / judged, judged)


def share_picture(share: Estimate) -> Markup:
    """The share validated with its interval, on a line from 0 to 1 with a mark in the middle."""
    x, middle = SHARE.x((0.0, 1.0)), SHARE.height / 2
    body = svg.tag("path", d=f"M{x(0):.0f} {middle:.0f}H{x(1):.0f}M{x(0.5):.0f} 2V16", class_="axis")
    body += svg.level(share.low, share.high, middle, x, "after")
    if math.isfinite(share.accuracy):
        body += svg.tag("circle", cx=x(share.accuracy), cy=middle, r=4.5, class_="dot after")
    said = f"validated {percent(share.accuracy, 0)} of the times it was judged"
    return svg.drawing(SHARE, said, body, class_="share")
