"""Our methods in TRL's GRPOTrainer: rollouts, loss, optimizer and launch are TRL's, the advantages are the method's.

Importing this needs TRL in the tested version. Of TRL's internals it overrides `_generate_and_score_completions`, whose
`advantages` it replaces, one a token in place of one a rollout; it relies on the keys `prompt_ids`, `prompt_mask`,
`completion_ids`, `completion_mask` and `tool_mask` beside them, and adds to `_metrics`. All else is public.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TrainerCallback

from sgsd.config.run_config import RunConfig
from sgsd.contexts.prompts import with_open_thoughts
from sgsd.data.problems import load_problems
from sgsd.data.row_layouts import without_derivation
from sgsd.integrations.method_adapter import MethodAdapter, adapter_config
from sgsd.integrations.trl_terms import advantage_scale, check_arguments, checked_trl
from sgsd.train.context_resources import make_prompts
from sgsd.train.setup import usable_problems
from sgsd.types import Completion, Problem, Rollout, UserError, Verdict

GRPOTrainer: Any = checked_trl().GRPOTrainer


ENDING = 64  # characters of a prompt, more than a think tag and the white space behind it


@dataclass(frozen=True)
class Graded:
    """This process's completions of a generation, in TRL's order."""

    problems: list[Problem]
    completions: list[Completion]
    verdicts: list[Verdict]


class SgsdGRPOTrainer(GRPOTrainer):
    """A GRPOTrainer whose advantages are those of one of our methods.

    Args:
        model: as for GRPOTrainer.
        settings: the sections method, bank, prompts, verifier, data, teacher, compute and seed of a configuration.
        args: a GRPOConfig with temperature 1.0.
        processing_class: the tokenizer.
        train_dataset: rows with `prompt` and with the columns that `data.problem` and `data.answer` name; none: the
            problems of `data.path` under the student's prompt of `prompts.folder`.
        more: whatever else GRPOTrainer takes, but no reward functions: the verifier decides.

    Raises:
        UserError: settings that mean nothing here, or GRPOConfig settings under which the gradient would be another.
    """

    def __init__(
        self,
        model: Any,
        settings: Mapping[str, Any],
        *,
        args: Any,
        processing_class: Any,
        train_dataset: Any = None,
        **more: Any,
    ) -> None:
        if "reward_funcs" in more:
            raise UserError(
                "reward_funcs: the verifier decides; name your own by settings verifier.name module:function"
            )
        if not isinstance(processing_class, PreTrainedTokenizerBase):
            raise UserError(f"processing_class: is a {type(processing_class).__name__}; give the model's tokenizer")
        config = adapter_config(
            settings,
            model=model if isinstance(model, str) else model.config._name_or_path,
            output=args.output_dir,
            rollouts=args.generation_batch_size,
            group=args.num_generations,
            max_tokens=args.max_completion_length,
        )
        check_arguments(args, config.build_method())
        if train_dataset is None:
            train_dataset = own_dataset(config, processing_class)
            thinking = {"enable_thinking": config.prompts.student_thinking, **config.prompts.template_kwargs}
            args.chat_template_kwargs = {**thinking, **(args.chat_template_kwargs or {})}
        self.settings, self.graded = config, Graded([], [], [])
        super().__init__(
            model,
            reward_funcs=[self.correct],
            args=args,
            train_dataset=train_dataset,
            processing_class=processing_class,
            **more,
        )
        self.adapter = MethodAdapter.build(
            config, self.accelerator.unwrap_model(self.model), processing_class, self.accelerator
        )
        self.add_callback(Following(self.adapter))

    def correct(self, completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float | None]:
        """TRL's reward function: the verifier's reward, or 1 for correct and 0 for incorrect; none where unknown."""
        problems = problems_of(columns, len(completion_ids), self.settings)
        before = self.state.global_step * self.accelerator.num_processes + self.accelerator.process_index
        first = before * len(problems)
        completions = [self._completion(first + i, ids) for i, ids in enumerate(completion_ids)]
        asked = [self._ending(prompt) for prompt in columns["prompts"]]
        completions = with_open_thoughts(self.adapter.learner.policy.tokenizer, asked, completions)
        verdicts = self.adapter.verdicts(problems, [c.text for c in completions], completion_ids)
        self.graded = Graded(problems, completions, verdicts)
        return [None if verdict.outcome == 0 else (verdict.signed_reward + 1) / 2 for verdict in verdicts]

    def _completion(self, index: int, ids: Sequence[int]) -> Completion:
        ended, tokenizer = ids[-1] in self.adapter.end_ids, self.adapter.learner.policy.tokenizer
        text = tokenizer.decode(list(ids[:-1] if ended else ids), skip_special_tokens=False)
        return Completion(index, tuple(ids), text, "stop" if ended else "length")

    def _ending(self, prompt: Any) -> list[int]:
        """The last tokens of a prompt as TRL renders it, which may open a thought."""
        tokenizer, text = self.adapter.learner.policy.tokenizer, prompt
        if not isinstance(prompt, str):
            switches = self.args.chat_template_kwargs or {}
            text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True, **switches)
        return list(tokenizer(text[-ENDING:], add_special_tokens=False)["input_ids"])

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return output  # an evaluation reports rewards; nothing is learned from it
        if "num_images" in output:
            raise UserError("train_dataset: has images, which the teachers would not see; give text alone")
        output["advantages"] = self._token_advantages(output)
        return output

    def _token_advantages(self, output: Mapping[str, Tensor]) -> Tensor:
        """A · w / v [B, T], laid out as TRL's completions are."""
        theirs_BT = output["completion_mask"].bool()
        if "tool_mask" in output:
            theirs_BT = theirs_BT & output["tool_mask"].bool()
        rollouts, method = self._rollouts(output), self.adapter.learner.method
        written = [own_T[: len(r.completion.token_ids)] for own_T, r in zip(theirs_BT, rollouts)]
        with self.accelerator.autocast():
            found = self.adapter.advantages(rollouts, self.graded.verdicts, written, step=self.state.global_step + 1)
        for name, value in found.metrics.items():
            self._metrics["train"][f"sgsd/{name}"].append(value)
        ours_BT, advantages_BT = (laid_out(rows, theirs_BT) for rows in (found.masks, found.advantages))
        counts = torch.stack([ours_BT.sum(), theirs_BT.sum()])
        our_tokens, their_tokens = self.accelerator.reduce(counts, "sum").tolist()
        return advantages_BT * advantage_scale(
            ours_BT.bool(),
            theirs_BT,
            reduce=method.reduce,
            loss_type=self.loss_type,
            rollouts=len(rollouts) * self.accelerator.num_processes,
            our_tokens=our_tokens,
            their_tokens=their_tokens,
            max_tokens=self.max_completion_length,
        )

    def _rollouts(self, output: Mapping[str, Tensor]) -> list[Rollout]:
        graded = self.graded
        padded = zip(output["prompt_ids"], output["prompt_mask"].bool())
        prompts = [tuple(ids[mask].tolist()) for ids, mask in padded]
        return [
            Rollout(problem, prompt, completion, completion.index // self.num_generations)
            for problem, prompt, completion in zip(graded.problems, prompts, graded.completions, strict=True)
        ]


class Following(TrainerCallback):
    """Starts and resumes the adapter with the trainer, and updates its teacher after each step."""

    def __init__(self, adapter: MethodAdapter) -> None:
        self.adapter = adapter

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.adapter.resume(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.adapter.teacher_updater.after_step(state.global_step)


def laid_out(rows: Sequence[Tensor], like_BT: Tensor) -> Tensor:
    """Rows of their own lengths as a [B, T] of zeros beyond them."""
    out_BT = torch.zeros(like_BT.shape, dtype=rows[0].dtype, device=like_BT.device)
    for row_T, values_T in zip(out_BT, rows):
        row_T[: len(values_T)] = values_T
    return out_BT


def own_dataset(config: RunConfig, tokenizer: Any) -> Any:
    """The problems of `data.path` as TRL reads them. Raises UserError."""
    import datasets

    if tokenizer.chat_template is None:
        raise UserError("processing_class: has no chat template; give a train_dataset with prompts of your own")
    prompts = make_prompts(config, tokenizer)
    data = config.data
    return datasets.Dataset.from_list(
        [
            {
                "prompt": prompts.templates.student(problem.text),
                "id": problem.id,
                data.problem: problem.text,
                data.answer: problem.gold,
                data.solution or "solution": problem.solution,
            }
            for problem in usable_problems(config, prompts, load_problems(data))
        ]
    )


def problems_of(columns: Mapping[str, Sequence[Any]], count: int, config: RunConfig) -> list[Problem]:
    """The problems of TRL's rows. Raises UserError for a column that is not there."""
    data = config.data
    for key, name in (("data.problem", data.problem), ("data.answer", data.answer)):
        if name not in columns:
            raise UserError(
                f"train_dataset: has no column {name!r}; name it by settings {key}, and keep remove_unused_columns off"
            )
    texts, golds, none = columns[data.problem], columns[data.answer], [None] * count
    solutions, ids = columns.get(data.solution or "solution", none), columns.get("id", none)
    rows = [
        {name: values[place] for name, values in columns.items() if isinstance(values, list)} for place in range(count)
    ]
    return [
        Problem(
            str(name or hashlib.sha256(text.encode()).hexdigest()[:12]),
            text,
            without_derivation(gold) if isinstance(gold, str) else gold,
            solution,
            answer=gold,
            columns=row,
        )
        for name, text, gold, solution, row in zip(ids, texts, golds, solutions, rows, strict=True)
    ]
