"""Grade completions: take out the final answer, and compare it with the reference.

`load_verifier` gives the verifier that a configuration names, `MathVerifier` is the bundled one, and anything with
`grade(completions, golds) -> list[Verdict]` is a `Verifier`.
"""

from sgsd.verify.custom import FunctionVerifier, load_verifier
from sgsd.verify.final_answer import extract_answer
from sgsd.verify.grader import MathVerifier
from sgsd.verify.protocol import Verifier

__all__ = ["FunctionVerifier", "MathVerifier", "Verifier", "extract_answer", "load_verifier"]
