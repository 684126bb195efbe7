"""Grade completions: take out the final answer, and compare it with the reference.

`load_verifier` gives the verifier that a configuration names, `MathVerifier` is the bundled one, and anything with
`grade(completions, golds) -> list[Verdict]` is a `Verifier`.
"""

from sgsd.verify.contract import Contract, FunctionVerifier, grade_problems
from sgsd.verify.custom import load_verifier
from sgsd.verify.final_answer import extract_answer
from sgsd.verify.grader import MathVerifier
from sgsd.verify.protocol import Verifier

__all__ = [
    "Contract",
    "FunctionVerifier",
    "MathVerifier",
    "Verifier",
    "extract_answer",
    "grade_problems",
    "load_verifier",
]
