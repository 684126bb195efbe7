"""Micro-batches of texts: no padding between prompt and completion, each within a token budget.

Three layouts of the same texts give the same numbers:

    rows    a row a text, its pads at the end
    packed  all texts in one row, one behind the other, no pads: for attention kernels of variable length
    shared  a prompt that several completions follow goes through once and they attend to its keys; no gradient
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Layout = Literal["rows", "packed", "shared"]


@dataclass(frozen=True, slots=True)
class Row:
    """A text to score: the completion's tokens under the prompt."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


class Segments(NamedTuple):
    """The places of texts in a packed row, as kernels of variable length take them."""

    position_ids_RL: Tensor  # each text's own, from 0
    edges: Tensor  # int32 [B + 1]: where each text begins and the last one ends
    longest: int


class Prefixes(NamedTuple):
    """The P prompts of a shared micro-batch, each without its last token, which begins the row that continues it."""

    input_ids_PL: Tensor
    prompt_R: Tensor  # which of them each row continues
    position_ids_RL: Tensor
    mask_RL: Tensor  # which of a row's keys, those of its prefix and then its own, are tokens and not pads


class PackedBatch(NamedTuple):
    """The tensors of one micro-batch: R rows, L their greatest length, B texts, N completion tokens of all in order.

    A plain row starts at position 0 and its pads stand at the end, where causal attention never looks: so no mask is
    needed, positions are right, and a neighbour cannot move a number.
    """

    input_ids_RL: Tensor
    predict_N: Tensor  # where in the flattened [R·L] the position stands that predicts each completion token
    targets_N: Tensor
    completion_BT: Tensor  # which of the [B, T] completion positions exist
    place_N: Tensor  # where in the flattened [B·T] each completion token stands
    segments: Segments | None = None  # of a packed micro-batch
    prefixes: Prefixes | None = None  # of a shared micro-batch

    def to_rows(self, values_N: Tensor) -> Tensor:
        """Lay flat values out as [B, T], 0 where a completion has ended."""
        # By number, not by mask: how many a mask selects is known only when the device has caught up.
        flat = values_N.new_zeros(self.completion_BT.numel()).index_copy(0, self.place_N, values_N)
        return flat.view(self.completion_BT.shape)


def teacher_layout(*, group: int, attention: str, device: str, shares: bool) -> Layout:
    """The layout of a run's teachers, the same in every process.

    Packed where the kernels are there for it; shared where `group` rollouts answer one problem and the model can; else
    rows. A micro-batch's own content never decides: processes would make different calls and wait for one another.
    """
    if attention == "flash_attention_2" and device == "cuda":
        return "packed"
    return "shared" if group > 1 and shares else "rows"


def collate(
    rows: Sequence[Row], *, layout: Layout = "rows", pad_id: int = 0, device: torch.device | str = "cpu"
) -> PackedBatch:
    """Put rows into one micro-batch.

    Raises:
        ValueError: a row without a prompt or without a completion, which would have nothing to predict.
    """
    for number, row in enumerate(rows):
        if not row.prompt_ids or not row.completion_ids:
            raise ValueError(f"row {number} has an empty {'completion' if row.prompt_ids else 'prompt'}")

    def place(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)  # the device's queue goes on filling while it is copied

    segments = prefixes = None
    heads = [len(row.prompt_ids) for row in rows]  # tokens up to the one that predicts the completion's first
    texts = [[*row.prompt_ids, *row.completion_ids] for row in rows]
    if layout == "packed":
        starts = [0, *accumulate(map(len, texts))]
        positions = torch.cat([torch.arange(len(text)) for text in texts])[None]
        edges = torch.tensor(starts, dtype=torch.int32)
        segments = Segments(place(positions), place(edges), max(map(len, texts)))
        input_ids = torch.tensor([[token for text in texts for token in text]])
    else:
        if layout == "shared":
            prefixes = Prefixes(*map(place, _prefixes(rows, pad_id)))
            heads = [1] * len(rows)
            texts = [[row.prompt_ids[-1], *row.completion_ids[:-1]] for row in rows]
        input_ids = _padded(texts, pad_id)
        starts = [number * input_ids.shape[1] for number in range(len(rows))]
    lengths = [len(row.completion_ids) for row in rows]
    predict = [start + head - 1 + t for start, head, length in zip(starts, heads, lengths) for t in range(length)]
    targets = [token for row in rows for token in row.completion_ids]
    completion = _exists(lengths)
    return PackedBatch(
        input_ids_RL=place(input_ids),
        predict_N=place(torch.tensor(predict)),
        targets_N=place(torch.tensor(targets)),
        completion_BT=place(completion),
        place_N=place(completion.flatten().nonzero().squeeze(1)),
        segments=segments,
        prefixes=prefixes,
    )


def _prefixes(rows: Sequence[Row], pad_id: int) -> Prefixes:
    prompts = list(dict.fromkeys(row.prompt_ids for row in rows))
    number_of = {prompt: number for number, prompt in enumerate(prompts)}
    lengths = [len(row.prompt_ids) - 1 for row in rows]
    own = _exists([len(row.completion_ids) for row in rows])
    before = _exists(lengths, at_least=1)  # a prompt of one token has no prefix, but some row must go through
    return Prefixes(
        input_ids_PL=_padded([prompt[:-1] for prompt in prompts], pad_id, at_least=1),
        prompt_R=torch.tensor([number_of[row.prompt_ids] for row in rows]),
        position_ids_RL=torch.tensor(lengths)[:, None] + torch.arange(own.shape[1]),
        mask_RL=torch.cat([before, own], dim=1),
    )


def _padded(texts: Sequence[Sequence[int]], pad_id: int, *, at_least: int = 0) -> Tensor:
    width = max(at_least, *map(len, texts))
    return torch.tensor([[*text, *[pad_id] * (width - len(text))] for text in texts])


def _exists(lengths: Sequence[int], *, at_least: int = 0) -> Tensor:
    return torch.arange(max(at_least, *lengths))[None, :] < torch.tensor(lengths)[:, None]


def plan_microbatches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Group rows so that rows × greatest length stays within the budget; longest first, so little is padding.

    A row longer than the budget goes alone. The order is a function of the lengths only.
    """
    return _fill(_longest_first(lengths), lambda indices: len(indices) * lengths[indices[0]], token_budget)


def plan_layout(rows: Sequence[Row], token_budget: int, layout: Layout) -> list[list[int]]:
    """Group rows so that what a micro-batch of that layout holds, pads and repeated prefixes too, is within the budget.

    Rows of one prompt stand together where prompts are shared; one that is full goes on in the next, which computes the
    prompt once more.
    """
    lengths = list(map(len, rows))
    if layout == "rows":
        return plan_microbatches(lengths, token_budget)
    if layout == "packed":
        return _fill(_longest_first(lengths), lambda indices: sum(lengths[i] for i in indices), token_budget)
    followers: dict[tuple[int, ...], list[int]] = {}
    for index in _longest_first(lengths):
        followers.setdefault(rows[index].prompt_ids, []).append(index)

    def held(indices: Sequence[int]) -> int:
        return len(indices) * sum(max(len(ids) for ids in column) for column in _columns(rows[i] for i in indices))

    return _fill((index for group in followers.values() for index in group), held, token_budget)


def _columns(rows: Iterable[Row]) -> zip[tuple[tuple[int, ...], ...]]:
    return zip(*((row.prompt_ids, row.completion_ids) for row in rows))


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


def _fill(order: Iterable[int], held: Callable[[Sequence[int]], int], token_budget: int) -> list[list[int]]:
    if token_budget < 1:
        raise ValueError(f"the token budget of a micro-batch must be positive, not {token_budget}")
    microbatches: list[list[int]] = []
    for index in order:
        if microbatches and held([*microbatches[-1], index]) <= token_budget:
            microbatches[-1].append(index)
        else:
            microbatches.append([index])
    return microbatches
