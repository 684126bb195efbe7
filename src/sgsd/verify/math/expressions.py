"""Tokens become an exact value: a recursive-descent reader of the arithmetic that answers are written in."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from sgsd.verify.errors import Undecided, Unreadable
from sgsd.verify.math.algebra import Arithmetic, Value, as_fraction, generator, rational
from sgsd.verify.math.closed_forms import TRIGONOMETRIC, choose, exponential, factorial, natural_log, trigonometric
from sgsd.verify.math.lexer import Token
from sgsd.verify.math.units import words

MAX_DIGITS = 600  # of one literal; Python may be told to refuse longer conversions (PYTHONINTMAXSTRDIGITS ≥ 640)
_MAX_TOKENS = 400
_MAX_DEPTH = 40

GREEK = words(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi omega ell "
    "Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
)
_CLOSES = {"{": "}", "(": ")", "[": "]"}
_ELLIPSES = frozenset({"dots", "ldots", "cdots", "dotsc", "dotsb"})
_LOGARITHMS = frozenset({"ln", "lg", "log"})
_ARGUMENT_GOES_ON = words("pi frac sqrt") | GREEK  # \sin 2\pi takes both, \sin x \cos x only the x


def evaluate(tokens: Sequence[Token]) -> Value:
    """The exact value of an expression.

    Raises Undecided beyond exact arithmetic, Unreadable for what is not one value.
    """
    if not tokens:
        raise Unreadable("nothing to read")
    if len(tokens) > _MAX_TOKENS:
        raise Undecided("too long to evaluate here")
    reader = _Reader(tokens)
    value = reader.expression()
    if reader.peek() is not None:
        raise Unreadable(f"{reader.peek()!r} has no place here")
    return value


def literal(text: str) -> Fraction:
    """The exact value of a number token; Undecided if it has too many digits."""
    mantissa, _, exponent = text.partition("e")
    if len(mantissa) > MAX_DIGITS:
        raise Undecided("too many digits")
    if exponent and abs(int(exponent)) > MAX_DIGITS:
        raise Undecided("too large an exponent")
    return Fraction(mantissa) * Fraction(10) ** int(exponent or 0)


class _Reader:
    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = list(tokens)
        self._at = 0
        self._depth = 0
        self._bars = 0  # how many |…| are open: a bar then closes instead of opening
        self._exact = Arithmetic()

    def peek(self, ahead: int = 0) -> str | None:
        """The text of the next token or of one further on; None at the end."""
        at = self._at + ahead
        return self._tokens[at].text if at < len(self._tokens) else None

    def _kind(self, ahead: int = 0) -> str | None:
        at = self._at + ahead
        return self._tokens[at].kind if at < len(self._tokens) else None

    def _take_operator(self, *texts: str) -> str | None:
        """Take the next token if it is one of these operators; None, and nothing taken, if not."""
        return self._take().text if self._kind() == "op" and self.peek() in texts else None

    def _take_signs(self) -> bool:
        """Take any number of signs; True if they make what follows negative."""
        negative = False
        while sign := self._take_operator("+", "-"):
            negative ^= sign == "-"
        return negative

    def _take(self) -> Token:
        if self._at >= len(self._tokens):
            raise Unreadable("it breaks off")
        self._at += 1
        return self._tokens[self._at - 1]

    def _expect(self, text: str) -> None:
        if self._take().text != text:
            raise Unreadable(f"{text!r} is missing")

    def expression(self) -> Value:
        """Read a sum, or n choose k."""
        value = self._sum()
        if self.peek() == "choose":
            self._take()
            value = choose(value, self._sum())
        return value

    def _sum(self) -> Value:
        value = self._product()
        while sign := self._take_operator("+", "-"):
            combine = self._exact.add if sign == "+" else self._exact.subtract
            value = combine(value, self._product())
        return value

    def _product(self) -> Value:
        value = self._signed()
        while True:
            if operator := self._take_operator("*", "/"):
                combine = self._exact.multiply if operator == "*" else self._exact.divide
                value = combine(value, self._signed())
            elif self._starts_factor():
                value = self._exact.multiply(value, self._power())
            else:
                return value

    def _starts_factor(self) -> bool:
        kind, text = self._kind(), self.peek()
        if kind == "num":  # a number right after something is no product: 3 34 is two answers
            return self._tokens[self._at - 1].text == ")"
        if kind in {"var", "cmd"}:
            return text != "choose"
        return kind == "op" and (text in {"(", "{", "[["} or (text == "|" and not self._bars))

    def _signed(self) -> Value:
        negative = self._take_signs()
        value = self._power()
        return self._exact.negate(value) if negative else value

    def _power(self) -> Value:
        value = self._atom()
        while operator := self._take_operator("!", "°", "^", "'", "_"):
            match operator:
                case "!":
                    value = factorial(value)
                case "°":
                    value = self._exact.multiply(value, self._exact.divide(generator("pi"), rational(180)))
                case "^":
                    value = self._raised(value, self._exponent())
                case _:
                    raise Undecided("a prime or a subscript on an expression")
        return value

    def _exponent(self) -> Value:
        negative = self._take_signs()
        value = self._atom()
        if self._take_operator("^"):  # towers associate to the right
            value = self._raised(value, self._exponent())
        return self._exact.negate(value) if negative else value

    def _raised(self, base: Value, exponent: Value) -> Value:
        return exponential(exponent) if base == generator("e") else self._exact.power(base, exponent)

    def _atom(self) -> Value:
        token = self._take()
        match token.kind, token.text:
            case "num", text:
                return self._number(text)
            case "var", name:
                return self._variable(name)
            case "cmd", name:
                return self._command(name)
            case "op", ("{" | "(" | "[") as opening:
                return self._group(_CLOSES[opening])
            case "op", "|":
                self._bars += 1
                value = self._group("|")
                self._bars -= 1
                return self._exact.absolute(value)
            case "op", "[[":
                raise Undecided("arithmetic with matrices")
        raise Unreadable(f"{token.text!r} has no place here")

    def _group(self, close: str) -> Value:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise Undecided("nested too deeply")
        bars, self._bars = self._bars, self._bars if close == "|" else 0
        value = self.expression()
        self._expect(close)
        self._bars = bars
        self._depth -= 1
        return value

    def _number(self, text: str) -> Value:
        value = literal(text)
        repeat = 1 if self.peek() == "." and "." not in text else 0
        if self.peek(repeat) in {"overline", "dot", "bar"} and (repeat or "." in text):
            self._at += repeat + 1
            return rational(value + self._repeating(text))
        if text.isdigit() and self._mixed():
            value += as_fraction(self._power()) or 0
            if self._take_operator("/"):
                raise Unreadable("a mixed number divided")
        elif text.isdigit() and self._kind() == "num" and self.peek(1) == "/" and self._kind(2) == "num":
            value += literal(self._take().text) / self._denominator()
        return rational(value)

    def _mixed(self) -> bool:
        r"""True if \frac{a}{b} of two whole numbers, b > 0, follows: 2\frac{1}{2} is 2.5."""
        texts = [self.peek(k) for k in range(7)]
        shape = [texts[k] for k in (0, 1, 3, 4, 6)]
        if shape == ["frac", "{", "}", "{", "}"]:
            return self._kind(2) == self._kind(5) == "num"
        return texts[0] == "frac" and self._kind(1) == "num" and len(texts[1] or "") >= 2

    def _denominator(self) -> Fraction:
        self._expect("/")
        value = literal(self._take().text)
        if not value:
            raise Unreadable("a division by zero")
        return value

    def _repeating(self, before: str) -> Fraction:
        self._expect("{")
        digits = self._take().text
        self._expect("}")
        if not digits.isdigit() or len(digits) > 50:
            raise Undecided("a repeating decimal of another kind")
        places = len(before.partition(".")[2])
        return Fraction(int(digits), (10 ** len(digits) - 1) * 10**places)

    def _variable(self, name: str) -> Value:
        if self._take_operator("_"):
            subscript = [self._take().text]
            if subscript == ["{"]:
                subscript = list(iter(lambda: self._take().text, "}"))
            return generator(f"{name}_{''.join(subscript)}")
        if name in {"f", "g"} and self.peek() == "(":
            raise Undecided("a function, not a product")
        return generator(name)

    def _command(self, name: str) -> Value:
        if name == "pi":
            return generator("pi")
        if name in GREEK:
            return self._variable(name)
        if name in _ELLIPSES:
            raise Unreadable("an ellipsis leaves the value open")
        if name in TRIGONOMETRIC or name in _LOGARITHMS:
            return self._function(name)
        if name == "sqrt":
            return self._root()
        if name == "frac" and self._is_derivative():
            raise Undecided("a derivative")
        if name not in {"frac", "binom"}:
            raise Undecided(f"\\{name} is not evaluated here")
        first, second = self._argument(), self._argument()
        return self._exact.divide(first, second) if name == "frac" else choose(first, second)

    def _root(self) -> Value:
        degree = rational(2)
        if self.peek() == "[":
            self._take()
            degree = self._group("]")
        index = as_fraction(degree)
        if index is None or index.denominator != 1:
            raise Undecided("a root of unusual degree")
        return self._exact.root(self._argument(whole_number=True), int(index))

    def _is_derivative(self) -> bool:
        r"""True if \frac{d}{dx} or \frac{dy}{dx} follows: no quotient of products."""
        texts = [self.peek(k) for k in range(7)]
        over = texts[2:].index("}") + 2 if "}" in texts[2:] else 0
        return texts[:2] == ["{", "d"] and over > 0 and texts[over + 1 : over + 3] == ["{", "d"]

    def _function(self, name: str) -> Value:
        r"""Read sin, ln and their kind, with \sin^2 x and \log_2 x; the argument is what stands close to the name."""
        exponent = base = None
        while script := self._take_operator("^", "_"):
            if script == "^":
                exponent = self._exponent()
            else:
                base = self._argument(whole_number=True)
        if exponent is not None and as_fraction(exponent) == -1:
            raise Undecided("an inverse function")
        value = self._function_value(name, base, self._function_argument())
        return value if exponent is None else self._exact.power(value, exponent)

    def _function_argument(self) -> Value:
        if self.peek() in {"(", "{"}:
            return self._power()
        value = self._signed()
        while self._kind() == "var" or (self._kind() == "cmd" and self.peek() in _ARGUMENT_GOES_ON):
            value = self._exact.multiply(value, self._power())
        return value

    def _function_value(self, name: str, base: Value | None, argument: Value) -> Value:
        if name in TRIGONOMETRIC:
            return trigonometric(name, argument)
        if name == "log" and base is None:
            raise Undecided("a logarithm whose base is a matter of taste")
        divisor = rational(10) if name == "lg" else base if name == "log" else None
        value = natural_log(argument)
        return value if divisor is None else self._exact.divide(value, natural_log(divisor))

    def _argument(self, *, whole_number: bool = False) -> Value:
        r"""Read an argument of a command; TeX takes one digit of a bare number, so \frac12 is 1/2."""
        token = self._take()
        if token.kind == "num" and not whole_number and len(token.text) > 1:
            if not token.text.isdigit():
                raise Unreadable("a decimal where TeX takes one digit")
            self._at -= 1
            self._tokens[self._at] = Token("num", token.text[1:])
            return rational(int(token.text[0]))
        if token.kind == "num":
            return rational(literal(token.text))
        self._at -= 1
        return self._atom()
