"""The bank during a run: rollouts of all processes are remembered, and now and then a writer reads them.

Each step's rollouts go to `memories.jsonl`, whose length a checkpoint knows: the window of an update is what stands
there since the last one, so a resumed run reads the same window. Answers of the writer are kept in the run's folder:
an update that is made again after a resume asks nothing and comes out the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from accelerate.utils import gather_object

from sgsd.bank import Bank, BankStore
from sgsd.contexts.prompts import load_prompts
from sgsd.distributed.processes import from_first
from sgsd.notices import warn
from sgsd.records.run_files import Records
from sgsd.skills import (
    TEMPLATES,
    AnswerCache,
    LeakFilter,
    Memory,
    UpkeepResult,
    UpkeepSettings,
    WriterClient,
    WriterError,
    memory_of,
    update_bank,
)
from sgsd.train.configured_writer import make_writer
from sgsd.train.run_bank import RunBank, initial_items
from sgsd.train.setup import Run
from sgsd.types import Rollout, UserError, Verdict


@dataclass
class Upkeep:
    """Called by every process after every step; only the first one asks the writer and writes the store."""

    run: Run
    records: Records
    settings: UpkeepSettings = field(init=False)

    def __post_init__(self) -> None:
        config = self.run.config
        self.settings = UpkeepSettings.from_config(config.skills)
        if self.bank is not None and config.writer.kind == "server":
            # A missing client or key is the user's to mend now, not a warning every so many steps.
            make_writer(config, self.run.engine, self.run.tokenizer).close()

    @property
    def bank(self) -> RunBank | None:
        """The bank that is kept up to date; None where it stays as it is."""
        return self.run.bank if self.settings.every > 0 else None

    def after_step(self, step: int, rollouts: Sequence[Rollout], verdicts: Sequence[Verdict]) -> None:
        """Remember the step; at the end of a window, bring the bank up to date on all processes."""
        bank, accelerator = self.bank, self.run.accelerator
        if bank is None:
            return
        mine = [asdict(m) for r, v in zip(rollouts, verdicts) if (m := memory_of(r, v)) is not None]
        everyone = sorted(gather_object(mine), key=lambda memory: memory["index"])
        if accelerator.is_main_process:
            for memory in everyone:
                self.records.write("memories", {"step": step, **memory})
        if step % self.settings.every == 0:
            bank.current, bank.event = from_first(accelerator, lambda: self._update(step, bank))
            self.run.follow_bank()

    def _update(self, step: int, bank: RunBank) -> tuple[Bank, int]:
        """Bring the store up to date; returns the bank and the number of its last event."""
        window = self._window(step)
        try:
            update = self._ask(step, bank, window)
        except (WriterError, UserError) as error:  # costs this update, never the run
            warn(f"step {step}: the bank stays as it is, for {error}")
            self.records.write("bank", {"step": step, "failed": str(error)})
            return bank.current, bank.event
        with BankStore(bank.path) as store:
            store.remember({m.id: asdict(m) for m in window} if update.added else {})
            store.import_bank(update.bank, f"upkeep after step {step}", update.origins)
            event = store.event
        self.records.write("bank", {"step": step, **update.to_record(), "event": event, "version": update.bank.version})
        return update.bank, event

    def _ask(self, step: int, bank: RunBank, window: Sequence[Memory]) -> UpkeepResult:
        config, run = self.run.config, self.run
        with BankStore(bank.path, read_only=True) as store:
            given = initial_items(store).keys()
        # The policy learns from step to step: its answers of one update must not stand for those of another.
        with (
            AnswerCache(self.records.folder / "answers.sqlite") as cache,
            make_writer(config, run.engine, run.tokenizer, version=f"step {step}") as writer,
        ):
            prompts = load_prompts(config.writer.prompts, required=TEMPLATES)
            return update_bank(
                bank.current,
                window,
                WriterClient(writer, prompts, cache, config.writer.failure_budget),
                self.settings,
                step,
                item_filter=LeakFilter(run.problems),
                score=run.evidence_log.ledger.standing if config.skills.prune == "evidence" else None,
                given=given,
            )

    def _window(self, step: int) -> list[Memory]:
        rows = (row for row in self.records.read("memories") if step - self.settings.every < row["step"] <= step)
        return [Memory(**{key: value for key, value in row.items() if key != "step"}) for row in rows]
