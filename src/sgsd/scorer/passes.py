"""Which rows go through the model together: no padding between prompt and completion, a token budget a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Row:
    """A text to score: the completion's tokens under the prompt."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


class Pack(NamedTuple):
    """The tensors of one pass. R rows, L their greatest length, N completion tokens of all rows in order.

    A row starts at position 0 and its pads stand at the end, where causal attention never looks: so no mask is
    needed, positions are right, and a neighbour cannot move a number.
    """

    input_ids_RL: Tensor
    predict_N: Tensor  # where in the flattened [R·L] the position stands that predicts each completion token
    targets_N: Tensor
    completion_RT: Tensor  # which of the [R, T] completion positions exist

    def to_rows(self, values_N: Tensor) -> Tensor:
        """Lay flat values out as [R, T], 0 where a row has ended."""
        rows_RT = values_N.new_zeros(self.completion_RT.shape)
        rows_RT[self.completion_RT] = values_N
        return rows_RT


def collate(rows: Sequence[Row], *, pad_id: int = 0, device: torch.device | str = "cpu") -> Pack:
    """Put rows into one pass.

    Raises:
        ValueError: a row without a prompt or without a completion, which would have nothing to predict.
    """
    for number, row in enumerate(rows):
        if not row.prompt_ids or not row.completion_ids:
            raise ValueError(f"row {number} has an empty {'completion' if row.prompt_ids else 'prompt'}")
    width = max(map(len, rows))
    input_ids = torch.tensor([[*r.prompt_ids, *r.completion_ids, *[pad_id] * (width - len(r))] for r in rows])
    predict = [i * width + len(r.prompt_ids) - 1 + t for i, r in enumerate(rows) for t in range(len(r.completion_ids))]
    lengths = torch.tensor([len(r.completion_ids) for r in rows])
    completion = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    targets = torch.tensor([token for r in rows for token in r.completion_ids])
    return Pack(input_ids.to(device), torch.tensor(predict).to(device), targets.to(device), completion.to(device))


def plan_passes(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Group rows so that rows × greatest length stays within the budget; longest first, so little is padding.

    A row longer than the budget goes alone. The order is a function of the lengths only.
    """
    if token_budget < 1:
        raise ValueError(f"the token budget of a pass must be positive, not {token_budget}")
    passes: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if passes and (len(passes[-1]) + 1) * lengths[passes[-1][0]] <= token_budget:
            passes[-1].append(index)
        else:
            passes.append([index])
    return passes
