"""One name for each metric: its key in a run's files and trackers, its label, unit and meaning for people.

docs/glossary.md is written from this file (`python -m sgsd.records.glossary`), and so are the live view's rows and the
report's titles and captions. Keys of earlier versions are mapped to today's when a file is read, never when written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

File = Literal["metrics", "timings", "evaluations"]
METRIC_FILES: tuple[File, ...] = get_args(File)


@dataclass(frozen=True, slots=True)
class Metric:
    """One number that a run writes down.

    Args:
        key: its name in the file, in every tracker and in TRL's log; `*` stands for a name that the run chooses.
        label: what people read; a `*` as in the key.
        unit: "share" for a number from 0 to 1; empty for one without a unit.
        sentence: what it is, in a sentence.
        trl: TRL's key for the same number, or the nearest one.
        old_keys: what earlier versions called it.
        file: the file of the run folder that holds it, without ".jsonl".
    """

    key: str
    label: str
    unit: str
    sentence: str
    trl: str = ""
    old_keys: tuple[str, ...] = ()
    file: File = "metrics"


METRICS: tuple[Metric, ...] = (
    Metric("step", "Step", "updates", "The step that the line belongs to; 0 is before training.", "step"),
    Metric("lr", "Learning rate", "", "The learning rate of the update.", "learning_rate"),
    Metric(
        "loss",
        "Loss",
        "",
        "Sign and size depend on the method; watch for jumps, not for a descent.",
        "loss",
    ),
    Metric(
        "grad_norm",
        "Gradient norm",
        "",
        "The norm before clipping; a spike is a step whose rollouts deserve a look.",
        "grad_norm",
    ),
    Metric("rollouts", "Rollouts", "a step", "Completions sampled in the step, over all processes."),
    Metric(
        "accuracy",
        "Accuracy",
        "share",
        "Rollouts that the verifier called correct.",
        "reward, rewards/correct/mean",
    ),
    Metric(
        "ungraded",
        "Ungraded",
        "share",
        "Rollouts that the verifier could not grade (unreadable answer, time-out).",
        old_keys=("unknown",),
    ),
    Metric(
        "length", "Completion length", "tokens", "Mean length of the sampled completions.", "completions/mean_length"
    ),
    Metric(
        "truncated",
        "Truncated",
        "share",
        "Rollouts that ran into the length limit before they ended.",
        "completions/clipped_ratio",
    ),
    Metric(
        "entropy",
        "Entropy",
        "nats a token",
        "How undecided the policy is at a token; a fall to zero is a collapse.",
        "entropy",
    ),
    Metric(
        "style_advantage_share",
        "Style in the advantages",
        "share",
        "Share of the summed |advantage| (|loss| where there is none) that falls on style tokens.",
        old_keys=("style_share",),
    ),
    Metric(
        "style_token_share",
        "Style in the text",
        "share",
        "Share of the trained tokens that are style: connectives, punctuation, white space.",
        old_keys=("style_tokens",),
    ),
    Metric("staleness", "Staleness", "updates", "Updates between the weights that sampled and those that are trained."),
    Metric(
        "sampler_mismatch",
        "Sampler mismatch",
        "nats a token",
        "Mean |log-prob by the sampler − log-prob by the trainer|; beyond rounding they are two policies.",
        "sampling/sampling_logp_difference/mean",
        ("sampler_gap",),
    ),
    Metric(
        "sampler_mismatch_max",
        "Largest sampler mismatch",
        "nats",
        "The largest such difference of any sampled token of the step.",
        "sampling/sampling_logp_difference/max",
        ("sampler_gap_max",),
    ),
    Metric(
        "importance_weight",
        "Importance weight",
        "",
        "Mean of p(trainer) / p(sampler) of the sampled tokens, as capped.",
        "sampling/importance_sampling_ratio/mean",
        ("importance",),
    ),
    Metric(
        "importance_capped",
        "Weights capped",
        "share",
        "Trained tokens whose importance weight was cut at rollout.importance_cap.",
    ),
    Metric(
        "stance/supports",
        "Stance: supports",
        "share",
        "Teachers to whom the rollout is likelier.",
        "",
        ("support_plus",),
    ),
    Metric(
        "stance/neutral", "Stance: neutral", "share", "Teachers within the confidence threshold.", "", ("support_zero",)
    ),
    Metric(
        "stance/suppresses",
        "Stance: suppresses",
        "share",
        "Teachers to whom the rollout is less likely.",
        "",
        ("support_minus",),
    ),
    Metric(
        "polarity/validated",
        "Polarity: validated",
        "share",
        "Teachers whose stance agrees with the outcome; they are followed.",
        "",
        ("validated",),
    ),
    Metric(
        "polarity/neutral",
        "Polarity: neutral",
        "share",
        "Teachers of neutral stance, or of a rollout without a verdict; they do not count.",
        "",
        ("neutral",),
    ),
    Metric(
        "polarity/reversed",
        "Polarity: reversed",
        "share",
        "Teachers whose stance disagrees with the outcome; they are inverted.",
        "",
        ("reversed",),
    ),
    Metric("gate_kept", "Gate kept", "share", "How much of the teachers' signal the gate lets through."),
    Metric("delta_abs", "Mean |Δ|", "nats", "How far teacher and student are apart on a sampled token."),
    Metric("delta_trend", "Trend of |Δ|", "times", "The last five steps by the five before; 1 is no change."),
    Metric(
        "divergence", "Divergence", "nats", "How far the distributions of teacher and student are apart at a token."
    ),
    Metric(
        "support_auc",
        "AUC of support",
        "",
        "How well support separates right rollouts from wrong ones; 0.5 is chance, below it wrong ones are favoured.",
    ),
    Metric(
        "support_auc_count",
        "Teachers behind the AUC",
        "a step",
        "Teachers of rollouts that the verifier could grade.",
        old_keys=("support_pairs",),
    ),
    Metric(
        "support_below_zero",
        "Support below zero",
        "share",
        "Teachers whose support is negative, before any threshold.",
        old_keys=("support_negative",),
    ),
    Metric(
        "support_histogram",
        "Histogram of support",
        "teachers",
        "Counts between the edges −1, −0.3, −0.1, −0.03, −0.01, 0.01, 0.03, 0.1, 0.3, 1 nats a token.",
        old_keys=("support_bins",),
    ),
    Metric(
        "polarity_histogram",
        "Histogram of polarity",
        "teachers",
        "Counts between the edges −0.6, −0.2, 0.2, 0.6.",
        old_keys=("polarity_bins",),
    ),
    Metric(
        "teacher_nll_ratio",
        "Teachers' NLL",
        "of a uniform guess's",
        "Mean −log p(rollout token) by the teachers, by log(vocabulary); 1: they know as much as a guess.",
        old_keys=("teacher_surprise",),
    ),
    Metric("skipped_teachers", "Skipped teachers", "a step", "Teachers left out because their prompt did not fit."),
    Metric("untaught_rollouts", "Rollouts without a teacher", "a step", "Rollouts whose teachers were all left out."),
    Metric(
        "sources/*/share",
        "Weight: *",
        "",
        "Share of the teachers' weight that this kind of context has, where a pool mixes several.",
    ),
    Metric("sources/*/teachers", "Teachers: *", "a step", "How many teachers of this kind were asked."),
    Metric("sources/*/validated", "Validated: *", "", "Share of this kind's teachers that were validated."),
    Metric("sources/*/reversed", "Reversed: *", "", "Share of this kind's teachers that were reversed."),
    Metric("objective/*", "*", "", "A number that the objective itself reports; mean over the trained tokens."),
    # ── Seconds of a step's stages ────────────────────────────────────────────────────────────────────────────────
    Metric("sample", "Sampling", "seconds", "Sampling the rollouts.", file="timings"),
    Metric("verify", "Verifying", "seconds", "Grading the answers.", file="timings"),
    Metric("contexts", "Contexts", "seconds", "Writing the teachers' prompts.", file="timings"),
    Metric("score", "Scoring", "seconds", "Log-probs of the rollouts under the teachers.", file="timings"),
    Metric(
        "update", "Update", "seconds", "Forward and backward pass of the student and the optimizer.", file="timings"
    ),
    Metric("bank", "Bank", "seconds", "Writing down what the teachers said, and keeping up the bank.", file="timings"),
    Metric("tokens", "Sampled tokens", "a step", "Tokens of the step's completions.", file="timings"),
    Metric(
        "tokens_per_s", "Throughput", "tokens a second", "Sampled tokens by the time of the whole step.", file="timings"
    ),
    # ── Evaluations ───────────────────────────────────────────────────────────────────────────────────────────────
    Metric("split", "Split", "", "Which problems were asked.", file="evaluations"),
    Metric("problems", "Problems", "", "How many problems were asked.", file="evaluations"),
    Metric("samples", "Samples", "a problem", "Answers sampled for each problem.", file="evaluations"),
    Metric(
        "greedy/accuracy", "greedy", "share", "Correct when the likeliest token is always taken.", file="evaluations"
    ),
    Metric("greedy/low", "greedy, lower end", "share", "Lower end of its 95 % interval.", file="evaluations"),
    Metric("greedy/high", "greedy, upper end", "share", "Upper end of its 95 % interval.", file="evaluations"),
    Metric(
        "avg_at_k/accuracy", "avg@k", "share", "Correct among k samples, averaged over problems.", file="evaluations"
    ),
    Metric("avg_at_k/low", "avg@k, lower end", "share", "Lower end of its 95 % interval.", file="evaluations"),
    Metric("avg_at_k/high", "avg@k, upper end", "share", "Upper end of its 95 % interval.", file="evaluations"),
    Metric("avg_at_k/k", "k", "", "Samples a problem.", file="evaluations"),
)

GLOSSARY: Mapping[str, Metric] = {metric.key: metric for metric in METRICS}
_NEW_KEY = {old: metric.key for metric in METRICS for old in metric.old_keys}


def with_current_keys(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of metrics, timings or evaluations with the keys of earlier versions mapped to today's.

    >>> with_current_keys({"step": 1, "unknown": 0.25, "validated": 0.5})
    {'step': 1, 'ungraded': 0.25, 'polarity/validated': 0.5}
    """
    return {_NEW_KEY.get(key, key): value for key, value in record.items()}


def flat_keys(record: Mapping[str, Any], separator: str = "/") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested record under their joined keys.

    >>> dict(flat_keys({"step": 1, "greedy": {"accuracy": 0.5}}))
    {'step': 1, 'greedy/accuracy': 0.5}
    """
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}{separator}{inner}", leaf) for inner, leaf in flat_keys(value, separator))
        else:
            yield key, value


def find_metric(key: str) -> Metric | None:
    """The entry of a flat key, with its `*` filled in; None where the glossary has none.

    >>> find_metric("sources/shuffled/validated").label
    'Validated: shuffled'
    """
    if key in GLOSSARY:
        return GLOSSARY[key]
    first, _, rest = key.partition("/")
    name, _, last = rest.rpartition("/")
    found = GLOSSARY.get(f"{first}/*/{last}" if name else f"{first}/*")
    return None if found is None else replace(found, key=key, label=found.label.replace("*", name or last))


# ── docs/glossary.md ───────────────────────────────────────────────────────────────────────────────────────────────

TITLES: Mapping[File, str] = {
    "metrics": "`metrics.jsonl`, one line a step (`train/…` in trackers)",
    "timings": "`timings.jsonl`, one line a step (`timing/…` in trackers)",
    "evaluations": "`evaluations.jsonl`, one line an evaluation (`held-out/…` in trackers)",
}
MARK = "<!-- Below this line: made from src/sgsd/records/glossary.py by `python -m sgsd.records.glossary`. -->"


def metric_tables() -> str:
    """The page's tables of metrics, as Markdown."""
    blocks = []
    for file, title in TITLES.items():
        rows = [
            f"| `{m.key}` | {m.label.replace('|', chr(92) + '|')} | {m.unit} | {m.sentence.replace('|', chr(92) + '|')}"
            f" | {', '.join(f'`{key}`' for key in m.trl.split(', ') if key)}"
            f" | {', '.join(f'`{key}`' for key in m.old_keys)} |"
            for m in METRICS
            if m.file == file
        ]
        head = "| key | label | unit | meaning | TRL's key | earlier key |\n| --- | --- | --- | --- | --- | --- |"
        blocks.append("\n".join((f"### {title}", "", head, *rows)))
    return "\n\n".join(blocks) + "\n"


def write_page(path: Path) -> None:
    """Bring the page's tables up to date; what stands above the mark is written by hand and stays."""
    by_hand = path.read_text(encoding="utf-8").split(MARK)[0]
    path.write_text(f"{by_hand}{MARK}\n\n{metric_tables()}", encoding="utf-8")


if __name__ == "__main__":
    write_page(Path("docs/glossary.md"))
