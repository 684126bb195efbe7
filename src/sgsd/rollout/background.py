"""An engine that samples in the background while its caller computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.pool import AsyncResult, ThreadPool
from typing import Any

from sgsd.rollout.engine import Engine
from sgsd.types import Completion, Sampling


@dataclass(frozen=True, slots=True)
class _Request:
    """Everything that a call of `sample` depends on, but for the weights."""

    prompts: tuple[tuple[int, ...], ...]
    indices: tuple[int, ...]
    sampling: Sampling
    seed: int


class BackgroundEngine:
    """Samples one batch ahead: `begin` starts it, the same request to `sample` fetches it, other calls wait for it.

    The engine must hold weights of its own. One that samples with the trainer's would see them change under it.

    Args:
        engine: does the sampling, in a thread that nobody waits for when the process ends.
        barrier: returns once all processes have called it, so that shared servers get new weights when none samples.
    """

    def __init__(self, engine: Engine, barrier: Callable[[], object] = lambda: None) -> None:
        self.engine, self.barrier = engine, barrier
        self._thread: ThreadPool | None = None
        self._begun: tuple[_Request, AsyncResult[list[Completion]]] | None = None

    @property
    def dtype(self) -> str | None:
        """The dtype that the engine computes in, where it is known."""
        return getattr(self.engine, "dtype", None)

    def begin(self, prompts: Sequence[Sequence[int]], indices: Sequence[int], sampling: Sampling, *, seed: int) -> None:
        """Sample from the weights of the last sync, and return at once; the same request to `sample` fetches it."""
        self.wait()
        self._thread = self._thread or ThreadPool(1)
        result = self._thread.apply_async(self.engine.sample, (prompts, indices, sampling), {"seed": seed})
        self._begun = _request(prompts, indices, sampling, seed), result

    def sample(
        self, prompts: Sequence[Sequence[int]], indices: Sequence[int], sampling: Sampling, *, seed: int
    ) -> list[Completion]:
        """Return what the same request has begun, as often as it is asked for; sample anything else now.

        Raises:
            EngineError: sampling failed, in the background or now.
        """
        self.wait()
        if self._begun is not None and self._begun[0] == _request(prompts, indices, sampling, seed):
            return self._begun[1].get()
        return self.engine.sample(prompts, indices, sampling, seed=seed)

    def sync(self) -> None:
        self.wait()
        self.barrier()
        self.engine.sync()

    def wait(self) -> None:
        """Wait until what was begun is there, or has failed."""
        if self._begun is not None:
            self._begun[1].wait()

    def close(self) -> None:
        """End the engine, and with it what it may still be sampling."""
        if self._thread is not None:
            self._thread.terminate()  # first: what is still queued would begin on an ended engine
            self._thread = None
        self._begun = None
        close: Any = getattr(self.engine, "close", lambda: None)
        close()


def _request(prompts: Sequence[Sequence[int]], indices: Sequence[int], sampling: Sampling, seed: int) -> _Request:
    return _Request(tuple(map(tuple, prompts)), tuple(indices), sampling, seed)
