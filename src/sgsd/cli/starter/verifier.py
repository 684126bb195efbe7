"""Says whether a completion is right. It is asked about every rollout: put here what decides in your domain."""

import re


def right(completion: str, answer: str) -> bool:
    r"""True if the last \boxed{…} of the completion holds the answer, `answer` being that column of the data."""
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", completion)
    return bool(boxes) and boxes[-1].strip() == answer
