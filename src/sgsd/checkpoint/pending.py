"""Rollouts of a step that a stop did not let end: kept with the checkpoint, used again instead of sampled again.

What was graded stays graded: a grader's time-out on the first try is a time-out after resuming too. Rollouts sampled
ahead of their step (`rollout.prefetch`) are kept by every checkpoint and are not graded yet. One JSON file a process; a
run resumed with another number of processes reads them all and takes its own groups.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from sgsd.types import Completion, Rollout, RolloutRequest, Status, UserError, Verdict


@dataclass(frozen=True)
class Pending:
    """Rollouts of one step by their global index, with verdicts or still without, and the seconds that they took."""

    records: Mapping[int, Mapping[str, Any]]
    seconds: Mapping[str, float]
    staleness: int = 0

    def take(self, requests: Sequence[RolloutRequest]) -> tuple[list[Rollout], list[Verdict] | None]:
        """The rollouts that answer the requests, and their verdicts where they were graded.

        Raises UserError: a prompt is no longer the one that was answered.
        """
        rollouts, verdicts = [], []
        for request in requests:
            record = self.records[request.index]
            if self.staleness:  # pairs of a bank in its prompt were chosen before the last step taught the bank
                request = replace(request, prompt_ids=tuple(record["prompt"]))
            elif tuple(record["prompt"]) != request.prompt_ids:
                raise UserError(
                    f"problem {request.problem.id}: its prompt has changed since rollout {request.index} answered it;"
                    " put back the prompts and the tokenizer that the run was started with"
                )
            rollouts.append(request.answered(_completion(record)))
            if "status" in record:
                graded = record["answer"], record["seconds"], record.get("reward")
                verdicts.append(Verdict(Status(record["status"]), *graded))
        return rollouts, verdicts or None


def shard_files(
    rollouts: Sequence[Rollout],
    verdicts: Sequence[Verdict] | None,
    seconds: Mapping[str, float],
    *,
    staleness: int = 0,
) -> dict[str, str]:
    """Every process's rollouts as the text of a file; all processes call it, all get all files."""
    graded = [{} for _ in rollouts] if verdicts is None else [asdict(verdict) for verdict in verdicts]
    records = [_record(rollout) | more for rollout, more in zip(rollouts, graded, strict=True)]
    shards = gather_object([json.dumps({"seconds": dict(seconds), "staleness": staleness, "rollouts": records})])
    return {f"pending-{number:05d}.json": text for number, text in enumerate(shards)}


def read_shards(folder: Path) -> Pending | None:
    """The rollouts that a checkpoint holds of the step after it, if any."""
    shards = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("pending-*.json"))]
    if not shards:
        return None
    records = {record["index"]: record for shard in shards for record in shard["rollouts"]}
    return Pending(records, shards[0]["seconds"], shards[0].get("staleness", 0))


def _record(rollout: Rollout) -> dict[str, Any]:
    done = rollout.completion
    return {
        "index": done.index,
        "prompt": rollout.prompt_ids,
        "tokens": done.token_ids,
        "logps": done.logps,  # as JSON writes them, floats come back to the last bit
        "text": done.text,
        "finish": done.finish,
    }


def _completion(record: Mapping[str, Any]) -> Completion:
    tokens, logps = tuple(record["tokens"]), tuple(record["logps"])
    return Completion(record["index"], tokens, record["text"], record["finish"], logps)
