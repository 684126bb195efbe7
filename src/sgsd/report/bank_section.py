"""The bank as the page shows it: what came of its items, and what the updates did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sgsd.report import svg
from sgsd.report.curves import wilson
from sgsd.report.labels import UNKNOWN, count, percent, signed, with_interval
from sgsd.report.svg import Frame
from sgsd.report.values import BankItem, BankUpdate, Estimate

MOST_ITEMS = 20  # half of them the best, half the worst
MOST_UPDATES = 20
MOST_NAMES = 3  # of what one update added, and of what it removed
MOST_CHARACTERS = 160  # of what an item says
SHARE = Frame(120, 18, left=5, right=5, top=0, bottom=0)


@dataclass(frozen=True, slots=True)
class ItemLine:
    """One item, ready for the template."""

    item: BankItem
    says: str
    origin: str
    standing: str
    ink: str
    share: str
    picture: Markup


@dataclass(frozen=True, slots=True)
class UpdateLine:
    """One update of the bank, ready for the template: ids with what they say, and how many are not named."""

    update: BankUpdate
    success: str
    added: tuple[tuple[str, str], ...]
    removed: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class BankPart:
    """The page's part on the bank; `gap` is the place in `items` where the middle was left out, 0 for nowhere."""

    lead: str
    items: tuple[ItemLine, ...]
    gap: int
    left_out: int
    updates: tuple[UpdateLine, ...]
    earlier: int


def bank_part(items: Sequence[BankItem], updates: Sequence[BankUpdate]) -> BankPart | None:
    """The best and the worst of the items that were shown, and the latest updates; None where there is neither."""
    shown = sorted((item for item in items if item.retrieved), key=_best_first)
    if not shown and not updates:
        return None
    cut = len(shown) > MOST_ITEMS
    half = MOST_ITEMS // 2
    chosen = [*shown[:half], *shown[-half:]] if cut else shown
    says = {item.id: item.says for item in items}
    return BankPart(
        lead=_lead(items, shown),
        items=tuple(map(item_line, chosen)),
        gap=half if cut else 0,
        left_out=len(shown) - len(chosen),
        updates=tuple(update_line(update, says) for update in updates[-MOST_UPDATES:]),
        earlier=max(0, len(updates) - MOST_UPDATES),
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


def item_line(item: BankItem) -> ItemLine:
    origin = "start" if item.learned is None else f"step {item.learned:,}"
    ink = "positive" if item.standing > 0 else "negative" if item.standing < 0 else "neutral"
    judged = item.validated + item.reversed
    share = Estimate(item.share, item.low, item.high)
    if judged and not math.isfinite(item.share):
        share = wilson(item.validated / judged, judged)
    return ItemLine(
        item=item,
        says=item.says if len(item.says) <= MOST_CHARACTERS else f"{item.says[: MOST_CHARACTERS - 1]}…",
        origin=origin + ("" if item.kept else ", gone"),
        standing=signed(item.standing, 3),
        ink=ink,
        share=with_interval(share, decimals=0) if judged else UNKNOWN,
        picture=share_picture(share) if judged else svg.EMPTY,
    )


def share_picture(share: Estimate) -> Markup:
    """The share validated with its interval, on a line from 0 to 1 with a mark in the middle."""
    x, middle = SHARE.x((0.0, 1.0)), SHARE.height / 2
    body = svg.tag("path", d=f"M{x(0):.0f} {middle:.0f}H{x(1):.0f}M{x(0.5):.0f} 2V16", class_="axis")
    body += svg.level(share.low, share.high, middle, x, "after")
    if math.isfinite(share.accuracy):
        body += svg.tag("circle", cx=x(share.accuracy), cy=middle, r=4.5, class_="dot after")
    said = f"validated {percent(share.accuracy, 0)} of the times it was judged"
    return svg.drawing(SHARE, said, body, class_="share")


def update_line(update: BankUpdate, says: Mapping[str, str]) -> UpdateLine:
    def named(ids: Sequence[str]) -> tuple[tuple[str, str], ...]:
        return tuple((name, says.get(name, "")) for name in ids[:MOST_NAMES])

    return UpdateLine(update, percent(update.success, 0), named(update.added), named(update.removed))
