"""Units an answer may carry, and the words that make an answer a hedge. Exact factors, no tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple


def words(text: str) -> frozenset[str]:
    """A vocabulary, written as one text."""
    return frozenset(text.split())


class Unit(NamedTuple):
    """A known unit: its dimension with its power (an area is ("length", 2)) and its size in base units."""

    dimension: tuple[str, int]
    factor: Fraction


# Dimension: for each unit its size in the dimension's base unit, and its spellings.
_SCALED = {
    "length": "1/1000 mm millimeter millimetre, 1/100 cm centimeter centimetre, 1 m meter metre, "
    "1000 km kilometer kilometre, 127/5000 in inch, 381/1250 ft foot feet, 1143/1250 yd yard, 201168/125 mi mile",
    "mass": "1/1000 mg milligram, 1 g gram, 1000 kg kilogram, 45359237/100000 lb pound",
    "volume": "1/1000 ml mL milliliter millilitre, 1 l L liter litre",
    "time": "1 s sec second, 60 min minute, 3600 h hr hour, 86400 day, 604800 week",
    "months": "1 month, 12 yr year",
    "money": "1 dollar usd, 1/100 cent",
    "euros": "1 euro eur",
    "rupees": "1 rupee rs",
    "sterling": "1 sterling gbp",
    "yen": "1 yen jpy",
}
# Units that convert to no other, each a dimension of its own.
_ALONE = "degree deg, radian rad, N newton, J joule, W watt, A amp ampere, V volt, Hz hertz, mph, K kelvin"
_UNITS = {
    name: (dimension, Fraction(size))
    for dimension, units in _SCALED.items()
    for size, *names in map(str.split, units.split(","))
    for name in names
} | {name: (unit, Fraction(1)) for unit in _ALONE.split(",") for name in unit.split()}
_POWERS = {"square": 2, "squared": 2, "sq": 2, "cubic": 3, "cubed": 3, "cu": 3}
CURRENCIES = frozenset({"money", "euros", "rupees", "sterling", "yen"})  # dimensions
CLOCK = frozenset({"am", "pm"})
_PERCENT = frozenset({"%", "percent", "percentage", "pct"})
_SMALL = """zero one two three four five six seven eight nine ten
    eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"""
NUMERALS = {word: value for value, word in enumerate(_SMALL.split())}
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
NUMBER_WORDS = frozenset({*NUMERALS, *SCALES}) | words(
    "twenty thirty forty fifty sixty seventy eighty ninety half halves third thirds quarter quarters fourths fifths "
    "sixths sevenths eighths ninths tenths and minus negative"
)

# Words beside a number that take the claim back, or make it another claim.
HEDGES = words(
    "about approximately approx around roughly almost nearly maybe perhaps possibly probably likely guess unsure "
    "not no neither nor either unless except between least most than more less over under up or and if but "
    "wrong incorrect false dozen half times"
)
_OTHER_WORDS = NUMERALS.keys() | words(
    "yes no not true false odd even none both undefined dne the is are per all and can may does am pm"
)


def is_known_word(word: str) -> bool:
    """True for a run of letters that is a word of this vocabulary, not a product of variables."""
    lower = word.lower()
    return _size(word) is not None or lower in _PERCENT | _POWERS.keys() | _OTHER_WORDS


def is_percent(unit: Sequence[str]) -> bool:
    """True for a percentage: `%`, percent, percentage points."""
    return bool(unit) and unit[0].lower() in _PERCENT


def is_money(word: str) -> bool:
    """True for the name of a currency, which may stand before its number."""
    return (_size(word) or ("",))[0] in CURRENCIES


def known_unit(unit: Sequence[str]) -> Unit | None:
    """The unit named by texts such as ("cm", "^", "2") or ("square", "feet"); None for an unknown one."""
    names = [{"°": "degree"}.get(text, text) for text in unit if text not in {"^", "{", "}"}]
    power = 1
    if names and names[0].lower() in _POWERS:
        power, names = _POWERS[names[0].lower()], names[1:]
    elif len(names) == 2 and (names[1] in {"2", "3"} or names[1].lower() in _POWERS):
        power, names = _POWERS.get(names[1].lower()) or int(names[1]), names[:1]
    found = _size(names[0]) if len(names) == 1 else None
    return Unit((found[0], power), found[1] ** power) if found else None


def _size(word: str) -> tuple[str, Fraction] | None:
    """Dimension and size of a unit word; symbols are case-sensitive where they are one letter, words are not."""
    if word in _UNITS or len(word) == 1:
        return _UNITS.get(word)
    lower = word.lower()
    forms = (lower, lower.removesuffix("s"), lower.removesuffix("es"))
    return next((_UNITS[form] for form in forms if form in _UNITS and len(form) > 1), None)
