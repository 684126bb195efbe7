"""How long the road of a training step is: which of our own files are entered from `sgsd train` to the update.

    python benchmarks/road.py          # one step of SGSD by an adapter on the lab's policy
    python benchmarks/road.py --toy    # the same with fewer rollouts, as the tests run it

Whoever wants to understand a step has to read these files. The package that is imported is the one that is traced, so
another version's road is had by `PYTHONPATH=OTHER/src python benchmarks/road.py`. What graders do in processes of their
own is not on it.

A file counts as entered when one of its functions is called in this thread (`sys.setprofile`); what runs while a module
is imported, its own functions included, does not count, nor does code that is made at run time, such as the `__init__`
of a dataclass. Four marks part the road. They lean on names that outlive a change of the package:

    begin       the first call of a function `train_steps` in a file `loop.py` of the package (--begin FILE:FUNCTION for
                another one, `loop.py:train` before December 2026): a run has been built, its first step follows
    batch       the first return, after that, of a method `sample` of a class of the package whose name has "Engine"
                in it: the rollouts are there
    gradient    the last return of `torch.autograd.backward` before the end
    end         the first step of any torch optimizer, before it does anything
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

import sgsd

PACKAGE = Path(sgsd.__file__).resolve().parent
IN_FUNCTIONS = 0x1  # CO_OPTIMIZED: set for functions, not for the bodies of modules and classes
RUN: dict[str, Any] = {
    "name": "road",
    "steps": 1,
    "rollouts": 8,
    "method": {"name": "sgsd", "k": 4, "confidence": 0.01},
    "model": {"path": "lab", "dtype": "float32"},
    "lora": {"rank": 4, "alpha": 8},
    "data": {"path": "lab:train", "limit": 256},
    "prompts": {
        "folder": "lab",
        "student_thinking": False,
        "teacher_thinking": False,
        "evaluation_thinking": False,
        "max_tokens": 512,
    },
    "sampling": {"max_tokens": 96},
    "bank": {"path": "lab"},
    "optimizer": {"lr": 1e-4, "max_grad_norm": 1.0},
    "compute": {"threads": 1},
}
TOY: dict[str, Any] = {"rollouts": 2, "method": {"name": "sgsd", "k": 2, "confidence": 0.01}}


@dataclass
class Road:
    """The files entered, each with the function that entered it first; filled by being the profile function."""

    begin: str = "loop.py:train_steps"
    before: dict[str, str] = field(default_factory=dict)  # from the command line to the beginning
    step: dict[str, str] = field(default_factory=dict)
    from_batch: dict[str, str] = field(default_factory=dict)
    to_gradient: int | None = None  # how many of `from_batch` had been entered when the last gradient was there
    begun: bool = False
    sampled: bool = False
    ended: bool = False
    own: dict[CodeType, str | None] = field(default_factory=dict)

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            self._called(frame)
        elif event == "return":
            self._returned(frame)

    def _called(self, frame: FrameType) -> None:
        file = self._file(frame.f_code)
        if file is None:
            return
        name = frame.f_code.co_name
        if not self.begun and f"{Path(file).name}:{name}" == self.begin:
            self.begun = True
        entered = [self.step, *([self.from_batch] if self.sampled else [])] if self.begun else [self.before]
        new = [files for files in entered if file not in files]
        if new and not self._importing(frame):
            for files in new:
                files[file] = frame.f_code.co_qualname

    def _returned(self, frame: FrameType) -> None:
        code = frame.f_code
        if self.begun and not self.sampled and code.co_name == "sample" and self._file(code) is not None:
            self.sampled = "Engine" in type(frame.f_locals.get("self")).__name__
        elif self.sampled and code is torch.autograd.backward.__code__:
            self.to_gradient = len(self.from_batch)

    def stop(self, *_: Any) -> None:
        """Called before an optimizer's step."""
        if self.begun:
            sys.setprofile(None)
            self.ended = True

    def _file(self, code: CodeType) -> str | None:
        """The function's file, relative to the package; none where it is another's, or no function."""
        if code not in self.own:
            inside = code.co_flags & IN_FUNCTIONS and code.co_filename.startswith(f"{PACKAGE}{os.sep}")
            self.own[code] = str(Path(code.co_filename).relative_to(PACKAGE)) if inside else None
        return self.own[code]

    def _importing(self, frame: FrameType | None) -> bool:
        """Whether a module of the package is being imported just now, under the command's own."""
        while frame is not None:
            code = frame.f_code
            main = frame.f_globals.get("__name__") == "__main__"
            if code.co_name == "<module>" and code.co_filename.startswith(str(PACKAGE)) and not main:
                return True
            frame = frame.f_back
        return False

    @property
    def to_the_gradient(self) -> dict[str, str]:
        return dict(list(self.from_batch.items())[: self.to_gradient])


def trace(folder: Path, *, toy: bool = False, begin: str = Road.begin) -> Road:
    """The road of one step of a run in `folder`.

    Raises:
        RuntimeError: the run failed, or one of the marks was not met.
    """
    torch.set_num_threads(1)
    config = folder / "road.json"  # which is YAML as well
    config.write_text(json.dumps({**RUN, **(TOY if toy else {}), "output": str(folder / "run")}))
    road, argv = Road(begin), sys.argv
    hook = register_optimizer_step_pre_hook(road.stop)
    sys.argv = ["sgsd", "train", str(config)]
    sys.setprofile(road)
    try:
        runpy.run_module("sgsd.cli", run_name="__main__", alter_sys=False)
    except SystemExit as left:
        if left.code:
            raise RuntimeError(f"sgsd train ended with {left.code}") from left
    finally:
        sys.setprofile(None)
        sys.argv = argv
        hook.remove()
    marks = {"begin": road.begun, "batch": road.sampled, "gradient": road.to_gradient, "end": road.ended}
    if missing := [mark for mark, met in marks.items() if not met]:
        raise RuntimeError(f"the mark {missing[0]!r} was not met; see the top of {Path(__file__).name}")
    return road


def told(heading: str, files: dict[str, str]) -> str:
    lines = {file: len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) for file in files}
    rows = [f"{n:4}  {file:<36} {lines[file]:5}  {entry}" for n, (file, entry) in enumerate(files.items(), start=1)]
    return "\n".join([f"{heading}: {len(files)} files, {sum(lines.values()):,} lines", *rows])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="a smaller run, which shows that this works")
    parser.add_argument("--begin", default=Road.begin, metavar="FILE:FUNCTION", help="where the step is reached")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        road = trace(Path(folder), toy=options.toy, begin=options.begin)
    print(told("\nFrom the beginning of the loop to the optimizer's step", road.step))
    print(told("\nOf these, from the sampled batch to the gradient", road.to_the_gradient))
    print(f"\nBefore, from the command line to the beginning of the loop: {len(road.before)} files")
    print(f"On the whole way: {len(road.before.keys() | road.step.keys())} files")


if __name__ == "__main__":
    main()
