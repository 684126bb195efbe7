"""A writer in this process on vLLM, which decodes by the schema of the answer."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from sgsd.contexts.prompts import encode_chat
from sgsd.skills.drafts import schema_of
from sgsd.skills.writers.base import Request, Writer, WriterFailure, WriterReply, split_by_fit
from sgsd.skills.writers.engine_writer import draw_of
from sgsd.types import UserError

# JSON may have any amount of white space between its signs, and small models have been seen to write nothing else
# until their tokens were spent. vLLM can forbid it for an engine, not for a request, and only by these grammars.
STRICT_FORM = {"backend": "xgrammar", "disable_any_whitespace": True}


class VllmWriter(Writer):
    """Lets vLLM write. A model that thinks first is not held to the schema: its thinking would have to fit in it.

    Args:
        context: tokens that prompt and answer may have together; a longer request fails, nothing is cut.
        batch: requests between two times that answers are handed over; a kill loses no more than those.
        options: handed to vLLM by name, for instance `gpu_memory_utilization` or `tensor_parallel_size`.

    Raises:
        UserError: vLLM is not installed, or refuses the model or its options.
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        temperature: float = 0.0,
        context: int = 32_768,
        *,
        thinking: bool = False,
        batch: int = 64,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            vllm = import_module("vllm")
        except ImportError:
            raise UserError("writer: vLLM is not installed: pip install 'sgsd[vllm]'") from None
        self.temperature, self.context, self.seed = temperature, context, seed
        self.thinking, self.batch = thinking, batch
        self.name = f"vllm:{model}@{revision or 'main'}/{temperature}/{seed}/{'thinking' if thinking else 'plain'}"
        settings = {
            "model": model,
            "revision": revision,
            "tokenizer_revision": revision,
            "max_model_len": context,
            "seed": seed,
            "structured_outputs_config": STRICT_FORM,
            **(options or {}),
        }
        try:
            self._llm: Any = vllm.LLM(**settings)
        except (ValueError, OSError, RuntimeError, TypeError) as error:  # TypeError: an option it does not know
            raise UserError(
                f"writer.model: vLLM refuses {model} with writer.max_model_len {context}: {_reason(error)}"
            ) from error
        self._tokenizer = self._llm.get_tokenizer()

    def write(self, requests: Sequence[Request]) -> Iterator[tuple[int, WriterReply | WriterFailure]]:
        engine_died = import_module("vllm.v1.engine.exceptions").EngineDeadError
        prompts = [encode_chat(self._tokenizer, request.chat(), thinking=self.thinking) for request in requests]
        fitting, failures = split_by_fit(prompts, requests, self.context)
        yield from failures  # vLLM would refuse the whole batch for one of them
        for start in range(0, len(fitting), self.batch):
            chosen = fitting[start : start + self.batch]
            try:
                done = self._llm.generate(
                    [{"prompt_token_ids": list(prompts[i])} for i in chosen],
                    [self._sampling(requests[i]) for i in chosen],
                    use_tqdm=False,
                )
            except engine_died:
                yield from ((position, WriterFailure("vLLM's engine has died", dead=True)) for position in chosen)
                continue
            for position, output in zip(chosen, done, strict=True):
                best = output.outputs[0]
                yield position, WriterReply(best.text, len(prompts[position]), len(best.token_ids))

    def _sampling(self, request: Request) -> Any:
        vllm = import_module("vllm.sampling_params")
        free = self.thinking or request.answer is None
        form = None if free else vllm.StructuredOutputsParams(json=schema_of(request.form))
        seed = draw_of(request) + self.seed if self.temperature else None
        return vllm.SamplingParams(
            temperature=self.temperature, max_tokens=request.max_tokens, seed=seed, structured_outputs=form
        )

    def close(self) -> None:
        """Ends vLLM's processes, with all the memory they hold; the writer is of no use any more."""
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        gc.collect()


def _reason(error: Exception) -> str:
    """Return vLLM's reason in one line, without the settings it prints."""
    text = str(error)
    found = re.search(r"Value error, (.*?)(?:\[type=|\Z)", text, re.DOTALL)
    return " ".join((found[1] if found else text).split())[:240]
