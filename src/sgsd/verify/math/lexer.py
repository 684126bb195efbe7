r"""Answer text becomes tokens: Unicode, LaTeX dressing and spellings are settled here, once, in linear time.

Everything later reads tokens of a closed alphabet, so nothing a model wrote reaches a computer-algebra system as
it stands: a token is a number, a one-letter variable, a word, a LaTeX command name or one operator.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from sgsd.verify.math.units import is_known_word, words


class Token(NamedTuple):
    """One token: its kind ("num", "var", "word", "cmd", "op") and its text in the one spelling we use."""

    kind: str
    text: str


Tokens = tuple[Token, ...]

_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ"
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉"
_SUPER = re.compile(f"[{_SUPERSCRIPTS}]+")
_SUB = re.compile(f"[{_SUBSCRIPTS}]+")
_PLAIN_SCRIPT = str.maketrans(_SUPERSCRIPTS + _SUBSCRIPTS, "0123456789+-()n" + "0123456789")
_UNICODE_ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[A-Za-zπ])?")
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}

# fmt: off
_UNICODE = str.maketrans({
    "−": "-", "‐": "-", "‑": "-", "–": "-", "—": "-", "﹣": "-", "×": r"\times ", "·": r"\cdot ", "∙": r"\cdot ",
    "⋅": r"\cdot ", "÷": r"\div ", "∕": "/", "⁄": "/", "∞": r"\infty ", "∅": r"\emptyset ", "⌀": r"\emptyset ",
    "ø": r"\emptyset ", "Ø": r"\emptyset ", "°": r"^\circ ", "º": r"^\circ ", "˚": r"^\circ ",
    "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ",
    "∩": r"\cap ", "∈": r"\in ", "∖": r"\setminus ", "±": r"\pm ", "∓": r"\mp ", "ℝ": r"\mathbb{R} ",
    "⟨": r"\langle ", "⟩": r"\rangle ", "〈": r"\langle ", "〉": r"\rangle ", "∨": r"\lor ", "∧": r"\land ",
    "€": " euros ", "£": " sterling ", "¥": " yen ", "₹": " rupees ", "¢": " cents ",
    "′": "'", "’": "'", "∶": ":", "、": ",", "，": ",", "。": ".",
    **{char: rf"\{unicodedata.name(char).split()[-1].lower()} " for char in "αβγδεζηθικλμνξοπρστυφχψω"},
    **{char: "\\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", char).split("⁄"))
       for char in "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"},
})

_OPS = {
    "le": "<=", "leq": "<=", "leqslant": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">",
    "ne": "!=", "neq": "!=", "cdot": "*", "times": "*", "ast": "*", "div": "/", "lbrace": "\\{", "rbrace": "\\}",
    "lbrack": "[", "rbrack": "]", "langle": "(", "rangle": ")", "mid": "|", "vert": "|", "lvert": "|",
    "rvert": "|", "colon": ":", "lor": "or", "vee": "or", "land": "and", "wedge": "and", "degree": "°",
    "equiv": "=", "approx": "~=", "thickapprox": "~=", "{": "\\{", "}": "\\}", "%": "%", "&": "and",
    "\\": "\\\\", "|": "|",
}
_RAW_OPS = {"=<": "<=", "**": "^"}
_FIXED = {"reals": Token("cmd", "reals"), "degree": Token("op", "°"), "ellipsis": Token("cmd", "dots"),
          "money": Token("word", "dollars")}
_CURRENCIES = {"pounds": "sterling", "textsterling": "sterling", "euro": "euros", "texteuro": "euros", "yen": "yen"}
_COMMANDS = {"dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom",
             "varnothing": "emptyset", "infin": "infty", "infinity": "infty", "R": "reals", "Reals": "reals",
             "notin": "notin", "varepsilon": "epsilon", "varphi": "phi", "vartheta": "theta"}
_SKIPPED = words("displaystyle textstyle scriptstyle limits quad qquad big Big bigg Bigg bigl bigr Bigl Bigr "
                     "biggl biggr Biggl Biggr left right middle hspace strut nolimits underline rm bf it "
                     "vec hat overrightarrow")
_SPACES = frozenset({",", ";", ":", "!", " ", "\n", "(", ")", "[", "]", "quad", "qquad"})
_FUNCTIONS = words("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp lg sqrt pi theta "
                       "infty infinity infin min max gcd lcm det frac binom cup cap emptyset pm")
# fmt: on
_CONNECTIVES = frozenset({"or", "and"})
_SPACED_UNITS = "mgshLNJWK"  # one letter is a unit only after a number and a space: 5 m, but 5m is 5·m
_LETTERS = re.compile(r"[A-Za-z\s\-'.!]*")
_VOWEL = re.compile(r"[aeiou]", re.IGNORECASE)

_WORDS = r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt|normal)|mbox|operatorname\*?|boldsymbol|bm)"
_GROUPED = r"[1-9]\d{0,2}(?:(?:,?(?:\\[,!;: ]|\{\\,\})|\{,\})\d{3})+(?!\d)"  # separators that can mean nothing else
_LOOSE = r"[1-9]\d{0,2}(?:(?:,\d{3})+|(?:[ ~]\d{3})+)(?!\d)"  # 1,234 may also be a list of two


def _pattern(loose: bool) -> re.Pattern[str]:
    groups = f"{_GROUPED}|{_LOOSE}" if loose else _GROUPED
    return re.compile(
        rf"(?P<words>{_WORDS}\s*\{{(?P<content>[^{{}}]*)\}})"
        rf"|(?P<styled>{_WORDS}\s+(?P<letter>[A-Za-z])(?![A-Za-z]))"
        r"|(?P<reals>\\math(?:bb|cal|bf)\s*(?:\{\s*R\s*\}|R))"
        r"|(?P<matrix>\\(?P<edge>begin|end)\s*\{(?:[pbB]?(?:small)?matrix|array)\}(?:\s*\{[lcr|\s]*\})?)"
        r"|(?P<clock>(?<![A-Za-z])(?P<half>[aApP])\.\s?[mM]\.?(?![A-Za-z]))"
        r"|(?P<degree>\^\s*\{?\s*\\circ\s*\}?)"
        r"|(?P<colour>\\(?:text)?color\s*\{[^{}]*\})"
        r"|(?P<fence>\\(?:left|right|middle)\s*\.)"
        r"|(?P<ellipsis>\.(?:\s?\.){2,}|…|\\(?:dots[bcimo]?|ldots|cdots|hdots|textellipsis)(?![A-Za-z]))"
        r"|(?P<money>(?:(?<![A-Za-z])US\s?)?\\\$)"
        r"|(?P<command>\\(?:[A-Za-z]+|.))"
        r"|(?P<space>[\s~$]+)"
        rf"|(?P<number>(?:(?:{groups})(?:\.\d+)?|\d+\{{,\}}\d+|\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{{1,4}}(?!\w))?)"
        r"|(?P<letters>[A-Za-z]+)"
        r"|(?P<op><=|>=|=<|\*\*|.)",
        re.DOTALL,
    )


_STRICT_TOKENS, _LOOSE_TOKENS = _pattern(loose=False), _pattern(loose=True)
_LOOSE_NUMBER = re.compile(_LOOSE)


def plain(text: str) -> str:
    """Write Unicode as LaTeX and ASCII: ², ½, √, π, ≤, full-width and other digits; invisible characters go."""
    if text.isascii():
        return text
    text = _UNICODE_ROOT.sub(_root, text)
    text = _SUPER.sub(lambda run: f"^{{{run.group().translate(_PLAIN_SCRIPT)}}}", text)
    text = _SUB.sub(lambda run: f"_{{{run.group().translate(_PLAIN_SCRIPT)}}}", text)
    text = unicodedata.normalize("NFKC", text.translate(_UNICODE)).translate(_UNICODE)
    return text if text.isascii() else "".join(map(_plain_char, text))


def _root(match: re.Match[str]) -> str:
    sign, radicand = match.groups()
    return f"{_ROOTS[sign]}{{{radicand}}}" if radicand else f"{_ROOTS[sign]} "


def _plain_char(char: str) -> str:
    digit = unicodedata.decimal(char, None)
    if digit is not None:
        return str(digit)
    invisible = unicodedata.category(char) == "Cf" and unicodedata.bidirectional(char) in {"BN", "L", "R", "AL"}
    return "" if invisible else char  # an override that turns 34 round to 43 stays, and is no part of an answer


def has_loose_number(text: str) -> bool:
    """True for a text that holds something like 1,234, which is one number or a list of two."""
    return _LOOSE_NUMBER.search(text) is not None


_SYSTEM = re.compile(
    r"(?P<brace>(?:\\left\s*)?\\\{\s*)?\\begin\s*\{(?P<name>cases|aligned|align\*?|gathered|split|array)\}(?:\{[lcr]+\})?"
    r"(?P<rows>(?:(?!\\(?:begin|end)\b).)*)\\end\s*\{(?P=name)\}(?:\s*\\right\s*\.)?",
    re.DOTALL,
)


def _system(match: re.Match[str]) -> str:
    """Rows of equations as a list of them; a function that is defined case by case stays as it is."""
    rows = [row.replace("&", "") for row in re.split(r"\\\\", match["rows"]) if row.strip()]
    plain_rows = rows and all("=" in row and r"\text" not in row and "if" not in row.lower() for row in rows)
    if not plain_rows or (match["name"] == "array" and not match["brace"]):
        return match.group()
    return ", ".join(row.strip().rstrip(",.;") for row in rows)


def tokenise(text: str, *, loose: bool = True) -> Tokens:
    """Cut an answer into tokens; `loose` reads 1,234 as one number."""
    text, pattern = _SYSTEM.sub(_system, plain(text)), _LOOSE_TOKENS if loose else _STRICT_TOKENS
    tokens = _tokens(text, pattern, in_words=False)
    if _LETTERS.fullmatch(text) and any(token.kind == "word" for token in tokens):
        tokens = _tokens(text, pattern, in_words=True)  # one word makes a phrase of it: "does not exist"
    while tokens and tokens[-1].text in {".", ",", ";", "\\\\"}:
        tokens.pop()
    return tuple(tokens)


def normalise(text: str) -> str:
    """Write texts that differ only in dress alike; equal results mean the same answer."""
    return " ".join(token.text for token in tokenise(text))


def _tokens(text: str, pattern: re.Pattern[str], *, in_words: bool) -> list[Token]:
    tokens: list[Token] = []
    spaced = True
    for match in pattern.finditer(text):
        kind, chunk = match.lastgroup, match.group()
        if kind == "words":
            may_be_unit = bool(tokens) and tokens[-1].kind == "num" and not chunk.startswith(r"\operatorname")
            tokens += _wrapped(match["content"], pattern, may_be_unit=may_be_unit)
        elif kind == "letters":
            tokens += _letters(chunk, spaced=spaced, in_words=in_words, after=tokens[-1] if tokens else None)
        elif kind == "number":
            tokens.append(Token("num", _number(chunk)))
        elif kind == "styled":
            tokens.append(Token("var", match["letter"]))
        elif kind == "clock":
            tokens.append(Token("word", match["half"].lower() + "m"))
        elif kind == "matrix":
            tokens.append(Token("op", "[[" if match["edge"] == "begin" else "]]"))
        elif kind == "command":
            tokens += _command(chunk[1:])
        elif kind == "op":
            tokens.append(Token("op", _RAW_OPS.get(chunk, chunk)))
        elif kind in _FIXED:
            tokens.append(_FIXED[kind])
        spaced = kind == "space" or (kind == "command" and chunk[1:] in _SPACES)
    return tokens


def _number(chunk: str) -> str:
    """Write digits without separators; 0{,}5 has a decimal comma, 1{,}234 has none."""
    mantissa, mark, exponent = chunk.replace("E", "e").partition("e")
    if re.fullmatch(r"\d+\{,\}\d+", mantissa) and not re.fullmatch(_GROUPED, mantissa):
        mantissa = mantissa.replace("{,}", ".")
    return re.sub(r"[^\d.]", "", mantissa) + mark + exponent


def _wrapped(content: str, pattern: re.Pattern[str], *, may_be_unit: bool) -> list[Token]:
    r"""Read the content of \mathrm{…} or \text{…}: a function, one variable, or words, numbers and signs."""
    name = content.strip()
    if name in _FUNCTIONS and not (may_be_unit and is_known_word(name)):  # 5\text{ min} is no minimum
        return _command(name)
    if len(name) == 1 and name.isalpha() and not is_known_word(name):
        return [Token("var", name)]
    return _tokens(content, pattern, in_words=True)


def _letters(run: str, *, spaced: bool, in_words: bool, after: Token | None) -> list[Token]:
    """A run of letters is a word, a function or a product of variables; the rule must not eat variables."""
    lower = run.lower()
    if lower in _CONNECTIVES:
        return [Token("op", lower)]
    if in_words:
        return [Token("word", run)]
    after_number = after is not None and after.kind == "num"
    if len(run) == 1:
        unit_follows_number = spaced and after_number and run in _SPACED_UNITS
        return [Token("word" if unit_follows_number else "var", run)]
    known = is_known_word(run)
    if after_number and known:
        return [Token("word", run)]
    if run in _FUNCTIONS or lower in {"pi", "infinity"}:
        return _command(lower if lower == "infinity" else run)
    enough = 3 if spaced and after_number else 4
    if known or (len(run) >= enough and _VOWEL.search(run)):
        return [Token("word", run)]
    return [Token("var", letter) for letter in run]


def _command(name: str) -> list[Token]:
    if name in _SKIPPED or name in _SPACES:
        return []
    if name in _OPS:
        return [Token("op", _OPS[name])]
    if name in _CURRENCIES:
        return [Token("word", _CURRENCIES[name])]
    return [Token("cmd", _COMMANDS.get(name, name))]
