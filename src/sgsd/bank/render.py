"""The one place where bank text becomes prompt text."""

from __future__ import annotations

from functools import lru_cache

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from sgsd.bank.schema import check_item
from sgsd.bank.text import control_tokens, quoted
from sgsd.types import SkillPair, UserError

# A prompt is no HTML, so nothing is escaped. No globals: a template shows its two variables and calls nothing.
_ENVIRONMENT = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
_ENVIRONMENT.globals.clear()


def render_pair(pair: SkillPair, template: str) -> str:
    """The pair's text by a Jinja template whose variables are `skill` and `mistake`, either of which may be none.

    `skill` has id, title, principle, when_to_apply and meta; `mistake` has id, description, why_it_happens,
    how_to_avoid and meta. White space at the ends of the result is dropped. Bank text is data: braces in it are
    printed, never evaluated, and it is checked again here, however the pair was made. Raises `UserError` for a pair
    with no item, a template that does not compile or uses what is not there, an item that could not stand in a bank,
    and a control token that arises where two texts meet.
    """
    items = [item for item in (pair.skill, pair.mistake) if item is not None]
    if not items:
        raise UserError("a pair without skill and mistake has nothing to say; retrieve pairs from a bank")
    for item in items:
        check_item(item)
    try:
        text = _compiled(template).render(skill=pair.skill, mistake=pair.mistake).strip()
    except (TemplateError, TypeError) as error:
        raise UserError(
            f"pair {_names(pair)}: the template cannot be rendered ({_one_line(error)}); mend it"
        ) from error
    if arisen := set(control_tokens(text)) - set(control_tokens(template)):
        token = quoted(min(arisen))
        raise UserError(f"pair {_names(pair)}: rendering it makes the control token {token}; reword the items")
    return text


@lru_cache(maxsize=64)
def _compiled(template: str) -> Template:
    return _ENVIRONMENT.from_string(template)


def _names(pair: SkillPair) -> str:
    return " + ".join(quoted(item_id) for item_id in pair.item_ids)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
