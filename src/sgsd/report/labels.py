"""Numbers and untrusted text as a reader should see them."""

from __future__ import annotations

import math
import unicodedata

from markupsafe import Markup, escape

from sgsd.report.values import Estimate

NO_BREAK = "\u00a0"
MINUS = "\u2212"
# Format, control, surrogate, unassigned and private characters, line and paragraph separators: whatever could
# hide, reorder or break text. What a rollout contains should be seen, not obeyed.
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})
UNKNOWN = "–"


def code_point(character: str) -> str:
    return f"⟨U+{ord(character):04X}⟩"


def plain(text: object) -> str:
    """Text with every hidden character spelt out; line breaks and tabs stay."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in HIDDEN else code_point(c) for c in text)


def visible(text: str, limit: int = 4000) -> Markup:
    """Escaped text in which hidden characters, tabs and line breaks are marked; cut, and said so, at `limit`."""
    shown = Markup("").join(_mark(character) for character in text[:limit])
    left = len(text) - limit
    return shown + Markup('<span class="ctl"> … {} more characters</span>').format(left) if left > 0 else shown


def _mark(character: str) -> Markup:
    if character == "\n":
        return Markup('<span class="ctl">↵</span>\n')
    if character == "\t":
        return Markup('<span class="ctl">⇥</span>\t')
    if unicodedata.category(character) in HIDDEN:
        return Markup('<span class="ctl">{}</span>').format(code_point(character))
    return escape(character)


def percent(share: float, decimals: int = 1) -> str:
    return f"{100 * share:.{decimals}f}{NO_BREAK}%" if math.isfinite(share) else UNKNOWN


def interval(estimate: Estimate) -> str:
    """The interval in per cent without the sign, "40–44"; a decimal more where whole numbers would hide it."""
    if not estimate.has_interval:
        return ""
    decimals = 0 if estimate.high - estimate.low >= 0.02 else 1
    return f"{100 * estimate.low:.{decimals}f}–{100 * estimate.high:.{decimals}f}"


def with_interval(estimate: Estimate, decimals: int = 1) -> str:
    """42.1 % (40–44)."""
    inside, share = interval(estimate), percent(estimate.accuracy, decimals)
    return f"{share} ({inside})" if inside else share


def signed(value: float, decimals: int = 2) -> str:
    """A number whose sign is the message: +0.12, −0.30."""
    if not math.isfinite(value):
        return UNKNOWN
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def number(value: float, digits: int = 3) -> str:
    """A number with few significant digits: 0.0012, 23.1, 2,000, 1e-6, 2.4e6."""
    if not math.isfinite(value):
        return "not a number"
    size = abs(value)
    if size != 0 and (size < 1e-3 or size >= 1e6):
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    decimals = 0 if size == 0 else max(0, digits - 1 - math.floor(math.log10(size)))
    text = f"{value:,.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", MINUS)


def duration(seconds: float) -> str:
    """Seconds as a person says them: 20 ms, 4.2 s, 14 s, 3 min 20 s, 2 h 5 min."""
    if not math.isfinite(seconds) or seconds < 0:
        return UNKNOWN
    if 0 < seconds < 0.9995:
        return f"{number(1000 * seconds, 3 if seconds >= 0.1 else 2)}{NO_BREAK}ms"
    if seconds < 9.95:
        return f"{number(seconds, 2)}{NO_BREAK}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{NO_BREAK}s"
    large, small, names = (whole // 60, whole % 60, ("min", "s"))
    if whole >= 3600:
        large, small, names = (whole // 3600, whole % 3600 // 60, ("h", "min"))
    first = f"{large}{NO_BREAK}{names[0]}"
    return f"{first} {small}{NO_BREAK}{names[1]}" if small else first


def count(amount: int, noun: str) -> str:
    return f"{amount:,}{NO_BREAK}{noun}{'' if amount == 1 else 's'}"


def some_of(steps: tuple[int, ...], shown: int = 5) -> str:
    """Steps as prose: "step 12", "steps 12, 13 and 14", "steps 1, 2, 3, 4, 5 and 7 more"."""
    names = [str(step) for step in steps[:shown]]
    if len(steps) > shown:
        names.append(f"{len(steps) - shown} more")
    listing = " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else ""
    return f"step{'' if len(steps) == 1 else 's'} {listing}"
