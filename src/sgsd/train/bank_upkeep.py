"""The bank during a run: rollouts of all processes are remembered, and now and then the first one lets a writer read.

Each step's rollouts go to `memories.jsonl`, whose length a checkpoint knows: the window of an update is what stands
there since the last one, so a resumed run reads the same window. Answers of the writer are kept in the run's folder:
an update that is made again after a resume asks nothing and comes out the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from accelerate.utils import gather_object

from sgsd.bank import Bank, BankStore, is_dynamic, quarantined, worth
from sgsd.contexts.prompts import load_prompts
from sgsd.distributed.processes import from_first
from sgsd.notices import warn
from sgsd.records.run_files import Records
from sgsd.skills import TEMPLATES, AnswerCache, Memory, WriterClient, WriterError, memory_of
from sgsd.skills.upkeep import Update, UpkeepSettings, update_bank
from sgsd.train.bank_building import Objector, build_settings
from sgsd.train.configured_writer import make_writer
from sgsd.train.run_bank import beginning
from sgsd.train.setup import Run
from sgsd.types import Rollout, UserError, Verdict


@dataclass
class Upkeep:
    """Called by every process after every step; only the first one asks the writer and writes the store."""

    run: Run
    records: Records
    settings: UpkeepSettings = field(init=False)

    def __post_init__(self) -> None:
        g, built = self.run.config.skills, build_settings(self.run.config)
        self.settings = UpkeepSettings(g.every, g.threshold, g.add, g.capacity, built.extract, built.merge)
        if self.on and self.run.config.writer.kind == "server":
            # A missing client or key is the user's to mend now, not a warning every so many steps.
            make_writer(self.run.config, self.run.engine, self.run.tokenizer).__exit__(None, None, None)

    @property
    def on(self) -> bool:
        return self.settings.every > 0 and self.run.bank is not None

    def after_step(self, step: int, rollouts: Sequence[Rollout], verdicts: Sequence[Verdict]) -> None:
        """Remember the step; at the end of a window, bring the bank up to date on all processes."""
        if not self.on:
            return
        mine = [asdict(m) for r, v in zip(rollouts, verdicts) if (m := memory_of(r, v)) is not None]
        everyone = sorted(gather_object(mine), key=lambda memory: memory["index"])
        if self.run.accelerator.is_main_process:
            for memory in everyone:
                self.records.write("memories", {"step": step, **memory})
        if step % self.settings.every == 0:
            self._update(step)

    def _update(self, step: int) -> None:
        bank, run = self.run.bank, self.run
        assert bank is not None
        bank.current, bank.event = from_first(run.accelerator, lambda: self._ask_and_store(step))
        run.follow_bank()

    def _ask_and_store(self, step: int) -> tuple[Bank, int]:
        bank = self.run.bank
        assert bank is not None
        try:
            update = self._ask(step, bank.current)
        except (WriterError, UserError) as error:  # costs this update, never the run
            warn(f"step {step}: the bank stays as it is, for {error}")
            self.records.write("bank", {"step": step, "failed": str(error)})
            return bank.current, bank.event
        with BankStore(bank.path) as store:
            store.remember({m.id: asdict(m) for m in self._window(step)} if update.added else {})
            store.import_bank(update.bank, f"upkeep after step {step}", update.origins)
            event = store.event
        self.records.write("bank", {"step": step, **told(update), "event": event, "version": update.bank.version})
        return update.bank, event

    def _ask(self, step: int, bank: Bank) -> Update:
        config, run = self.run.config, self.run
        prompts = load_prompts(config.writer.prompts, required=TEMPLATES)
        given = self._given()
        by_evidence = worth(run.evidence_log.ledger) if config.skills.prune == "evidence" else None
        # The policy learns from step to step: its answers of one update must not stand for those of another.
        with (
            AnswerCache(self.records.folder / "answers.sqlite") as cache,
            make_writer(config, run.engine, run.tokenizer, version=f"step {step}") as writer,
        ):
            client = WriterClient(writer, prompts, cache, config.writer.failure_budget)
            return update_bank(
                bank,
                self._window(step),
                client,
                self.settings,
                step,
                objection=Objector(run.problems),
                worth=by_evidence,
                retired=self._quarantined(bank, given),
                given=given,
            )

    def _given(self) -> frozenset[str]:
        """What the run began with: it stays, though another run may have learned it and left its mark."""
        assert self.run.bank is not None
        with BankStore(self.run.bank.path, read_only=True) as store:
            first = beginning(store)
            return frozenset(item.id for item in store.snapshot(first.event).items) if first else frozenset()

    def _quarantined(self, bank: Bank, given: Collection[str]) -> list[str]:
        if not self.run.config.skills.quarantine:
            return []
        learned = [item.id for item in bank.items if is_dynamic(item) and item.id not in given]
        return quarantined(self.run.evidence_log.ledger, learned)

    def _window(self, step: int) -> list[Memory]:
        rows = (row for row in self.records.read("memories") if step - self.settings.every < row["step"] <= step)
        return [Memory(**{key: value for key, value in row.items() if key != "step"}) for row in rows]


def told(update: Update) -> dict[str, Any]:
    """An update as a line of bank.jsonl."""
    return {
        "success": update.success,
        "memories": update.memories,
        "proposals": update.proposals,
        "added": [proposal.item.id for proposal in update.added],
        "removed": list(update.removed),
        "refused": dict(update.refused),
    }
