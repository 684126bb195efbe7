"""One extractor, one grader: what a completion answered, and whether it is right."""

from sgsd.verify.custom import FunctionVerifier, load_verifier
from sgsd.verify.final_answer import extract_answer
from sgsd.verify.grader import MathVerifier
from sgsd.verify.protocol import Verifier

__all__ = ["FunctionVerifier", "MathVerifier", "Verifier", "extract_answer", "load_verifier"]
