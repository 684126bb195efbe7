"""What the trainer saves is what vLLM loads: the same log-probs from both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from on_cpu import ENGINE, in_this_process

from runs import run_small
from sgsd.config.sections import LoraConfig
from sgsd.contexts.prompt_builders import PromptBuilder
from sgsd.contexts.prompts import load_prompts
from sgsd.lab.task import problems
from sgsd.lab.tiny_policy import POLICY_FOLDER
from sgsd.methods import RECIPES
from sgsd.scorer import Row, Scorer, collate
from sgsd.train.models import make_scorer

pytest.importorskip("vllm", reason="vLLM has an environment of its own: make test-vllm")

RANK = {"rank": 8, "alpha": 16}  # of vLLM's sizes the smallest
TOLERANCE = 1e-4  # float32 on both sides: 1e-6 was measured, and another processor may add in another order


def prompts_of(tokenizer: Any, count: int) -> list[tuple[int, ...]]:
    maker = PromptBuilder(load_prompts("lab"), tokenizer, 512)
    stream = problems(held_out=True, seed=0)
    return [maker.student(problem.to_problem(), thinking=False) for problem, _ in zip(stream, range(count))]


def test_a_trained_adapter_gives_our_log_probs_in_vllm(tmp_path: Path, lab_model: Any, lab_tokenizer: Any) -> None:
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    folder = run_small(tmp_path / "run", steps=2, lora=RANK, optimizer={"lr": 1e-2, "max_grad_norm": 1.0})
    adapter = folder / "adapter"
    prompts = prompts_of(lab_tokenizer, 4)
    with in_this_process():
        llm = LLM(str(POLICY_FOLDER), max_model_len=512, enable_lora=True, max_lora_rank=RANK["rank"], **ENGINE)
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        draws = [SamplingParams(temperature=1.0, seed=seed, max_tokens=64, logprobs=0) for seed in range(len(prompts))]
        sampled = llm.generate(asked, draws, use_tqdm=False, lora_request=LoRARequest("trained", 1, str(adapter)))
        rows = [Row(prompt, tuple(out.outputs[0].token_ids)) for prompt, out in zip(prompts, sampled)]
        theirs = [_logps(row.completion_ids, out.outputs[0].logprobs) for row, out in zip(rows, sampled)]
        llm.llm_engine.engine_core.shutdown()
        del llm
    pack = collate(rows)
    with torch.no_grad():
        base_N = Scorer(lab_model)(pack).logps_N
        ours_N = make_scorer(lab_model, RECIPES["grpo"](), LoraConfig(**RANK, start=str(adapter)), seed=0)(pack).logps_N
    theirs_N = torch.tensor([logp for row in theirs for logp in row])
    assert len(ours_N) > 40
    assert (ours_N - base_N).abs().max() > 100 * TOLERANCE, "two steps changed nothing, so nothing is shown"
    assert (ours_N - theirs_N).abs().max() < TOLERANCE


def _logps(tokens: tuple[int, ...], entries: list[dict[int, Any]]) -> list[float]:
    return [entry[token].logprob for token, entry in zip(tokens, entries)]
