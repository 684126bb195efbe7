"""Tokens written as LaTeX for the computer-algebra system."""

from __future__ import annotations

from sgsd.verify.math.lexer import Tokens

_OPERATORS = {
    "*": r"\cdot ", "<=": r"\le ", ">=": r"\ge ", "!=": r"\ne ", "%": r"\%", "or": r"\text{ or }",
    "and": r"\text{ and }", "[[": r"\begin{pmatrix}", "]]": r"\end{pmatrix}", "~=": r"\approx ",
}  # fmt: skip


def latex_of(tokens: Tokens) -> str:
    """Write tokens as LaTeX; degrees become radians, because the computer-algebra system does not know them."""
    pieces: list[str] = []
    for at, token in enumerate(tokens):
        following = tokens[at + 1].text if at + 1 < len(tokens) else ""
        if token.kind == "num" and following == "°":
            pieces.append(rf"(\frac{{{token.text}\pi}}{{180}})")
        elif token.text == "°":
            if not pieces or not pieces[-1].endswith("{180})"):
                pieces.append(r"\cdot\frac{\pi}{180}")
        elif token.kind == "num" and at and tokens[at - 1].text in {"^", "_", "sqrt"}:
            pieces.append(f"{{{token.text}}}")
        elif token.kind == "word":
            pieces.append(rf"\text{{{token.text}}}")
        elif token.kind == "cmd":
            pieces.append(r"\mathbb{R}" if token.text == "reals" else f"\\{token.text} ")
        else:
            pieces.append(_OPERATORS.get(token.text, token.text))
    return "".join(pieces)
