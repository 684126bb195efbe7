"""One offline page from a run: read, draw, render, and put in place in one move."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from sgsd.files import write_atomic
from sgsd.report import accuracy, figures, labels
from sgsd.report import rollout_section as rollouts
from sgsd.report.bank_section import bank_part, share_picture, share_validated
from sgsd.report.curves import finite_mean, finite_sum, points_of
from sgsd.report.figures import HALF, THIRD, Figure
from sgsd.report.headline import caution, compare, ended, guards_in_words, headline, main_split, spoken, state
from sgsd.report.labels import duration, number, plain
from sgsd.report.read import read_run
from sgsd.report.svg import Frame
from sgsd.report.values import Run
from sgsd.types import UserError

FILTERS = (
    *(labels.visible, labels.number, labels.percent, labels.plain, labels.signed, labels.with_interval),
    *(rollouts.stance, rollouts.polarity, rollouts.thousandths, share_validated, share_picture),
)
STYLE, SCRIPT = "report.css", "report.js"


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with the figures under it; `pairs` puts two in a row, not three."""

    anchor: str
    title: str
    lead: str
    figures: tuple[Figure, ...]
    pairs: bool = False


def write_report(run: Path, output: Path | None = None) -> Path:
    """Write the page of a run folder, finished or not, and return where it is (`run/report.html`).

    The file is complete or untouched, whatever happens in between. Raises UserError when the folder or its
    metrics are missing, a file cannot be understood, or the page cannot be written.
    """
    page = render(read_run(run))
    target = output or run / "report.html"
    try:
        write_atomic(target, page, shared=True)
    except OSError as error:
        raise UserError(f"{target}: cannot write the report ({error.strerror}); name another output file") from error
    return target


def render(run: Run) -> str:
    """The whole page as text; the same run gives the same bytes."""
    templates = environment()
    style, script = inline(templates, STYLE), inline(templates, SCRIPT)
    shown, scale = rollouts.cards(run.rollouts)
    return templates.get_template("report.html.j2").render(
        run=run,
        style=style,
        script=script,
        policy=content_policy(style, script),
        headline=headline(run),
        caution=caution(run),
        measure=spoken(run),
        state=state(run),
        tiles=tiles(run),
        comparisons=compare(run),
        picture=accuracy.comparison_picture(compare(run)) if compare(run) else None,
        accuracy=accuracy.accuracy_figure(run),
        guards=[(fired, ended(run, fired)) for fired in run.fired],
        watched=guards_in_words(run),
        sections=sections(run),
        constants=figures.constants(run),
        bank=bank_part(run.items, run.updates),
        cards=shown,
        scale=scale,
        shades=range(-rollouts.SHADES, rollouts.SHADES + 1),
    )


@cache
def environment() -> jinja2.Environment:
    """Templates in which every value is escaped and no hidden character passes unseen."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("sgsd.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {kind.__name__: kind for kind in FILTERS}
    return templates


def _shown(value: object) -> object:
    return value if isinstance(value, Markup) else plain(value)


def inline(templates: jinja2.Environment, name: str) -> Markup:
    """Our own style or script as it stands in its file; it is never rendered, so no run can reach into it."""
    if templates.loader is None:
        raise LookupError("the environment has no loader")
    source, _, _ = templates.loader.get_source(templates, name)
    return Markup("\n") + Markup(source.strip()) + Markup("\n")


def content_policy(style: Markup, script: Markup) -> str:
    """Content-Security-Policy: nothing may load, and only these two inline texts, by hash, may act."""
    return (
        f"default-src 'none'; style-src '{digest(style)}'; script-src '{digest(script)}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )


def digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def tiles(run: Run) -> tuple[tuple[str, str], ...]:
    """The few numbers that everyone asks for first, as (name, value)."""
    seconds = finite_sum(v for row in run.timings for k, v in row.values.items() if k not in figures.NO_STAGE)
    speed = finite_mean(value for _, value in points_of(run.timings, "tokens_per_s"))
    trained = run.summary.train_seconds if run.summary else seconds
    split = main_split(run.evaluations)
    evaluated = [e.problems for e in run.evaluations if e.split == split and e.problems]
    found = (
        ("Method", run.method),
        ("Seed", run.seed),
        ("Steps", f"{run.step:,}" + (f" of {run.planned_steps:,}" if run.planned_steps else "")),
        ("Training time", duration(trained) if run.step and (run.timings or run.summary) else ""),
        ("Tokens a second", number(speed) if math.isfinite(speed) else ""),
        (f"{split[:1].upper()}{split[1:]} problems", f"{evaluated[-1]:,}" if evaluated else ""),
    )
    return tuple((name, value) for name, value in found if value)


def sections(run: Run) -> tuple[Section, ...]:
    """The figures below the accuracy, section by section; a section without figures is not there."""
    own = main_split(run.evaluations)
    further = sorted({e.split for e in run.evaluations} - {own})
    stacks = [figures.stack_figure(run, stack) for stack in (figures.STANCE, figures.POLARITY)]
    speed = [figures.time_figure(run), figures.curve_figure(run, figures.SPEED, run.timings, HALF)]
    every = (
        Section("splits", "Other evaluations", "", tuple(accuracy.split_figure(run, s) for s in further)),
        Section(
            "teachers",
            "What the teachers said",
            "Each teacher is the same model with something extra in its prompt, such as a skill or an answer.",
            (*drawn(stacks), *curve_figures(run, figures.TEACHERS, HALF)),
            pairs=True,
        ),
        Section(
            "rollout-health",
            "How the rollouts look",
            "Lengths, endings and indecision: where trouble shows first.",
            curve_figures(run, figures.HEALTH),
        ),
        Section("optimiser", "Optimisation", "", curve_figures(run, figures.OPTIMIZER)),
        Section("time", "Where the time goes", "", drawn(speed), pairs=True),
        Section(
            "other",
            "Other metrics",
            "Further numbers that this run logged.",
            curve_figures(run, figures.other_metrics(run)),
        ),
    )
    return tuple(section for section in every if section.figures)


def curve_figures(run: Run, keys: Sequence[str], frame: Frame = THIRD) -> tuple[Figure, ...]:
    return drawn([figures.curve_figure(run, key, run.metrics, frame) for key in keys])


def drawn(some: Sequence[Figure | None]) -> tuple[Figure, ...]:
    return tuple(figure for figure in some if figure is not None)
