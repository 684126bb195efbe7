"""The methods by name: recipes of a few declarative lines whose defaults are the published setting.

`build("sgsd", k=4)` makes one by name; `build("my_module:my_method")` makes one of your own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sgsd.contexts.names import named_context
from sgsd.lookup import load_attribute, nearest
from sgsd.methods.method import Method, Uniform
from sgsd.methods.recipes.distributions import critique, op2sd, opsd, rcsd, sdft, sdpo
from sgsd.methods.recipes.outcomes import dasd, grpo, reinforce, rlcsd, rlrt, rlsd, sdpg
from sgsd.methods.recipes.skill_based import grpo_skill, opsd_skill, sgsd, sgsd_calibrated, sgsd_distribution, trusted
from sgsd.types import UserError

RECIPES: Mapping[str, Callable[..., Method]] = {
    make.__name__: make
    for make in (
        *(sgsd, sgsd_calibrated, sgsd_distribution, trusted),
        *(grpo, reinforce, dasd, rlcsd, rlsd, rlrt),
        *(opsd, sdpo, sdft, op2sd, rcsd, critique, sdpg),
        *(grpo_skill, opsd_skill),
    )
}


def recipe(name: str) -> Callable[..., Method]:
    """The function behind a method's name: one of the recipes, or `module:function` of one's own.

    Raises:
        UserError: there is no such method.
    """
    if name in RECIPES:
        return RECIPES[name]
    if ":" not in name:
        raise UserError(f"method.name: there is no method {name!r}; {nearest(name, list(RECIPES))}")
    found = load_attribute(name, "method.name")
    if not callable(found):
        raise UserError(f"method.name: {name} is not a function that returns a Method")
    return found


def defaults(name: str) -> dict[str, Any]:
    """The options of a method that have a default value, with it."""
    return {key: p.default for key, p in parameters(name).items() if p.default is not p.empty}


def parameters(name: str) -> Mapping[str, inspect.Parameter]:
    """The options of a method by name. Raises UserError: there is no such method."""
    found = inspect.signature(recipe(name)).parameters
    return {key: p for key, p in found.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def build(name: str, **options: Any) -> Method:
    """Make a method by name with some options changed.

    Every method takes the option `context`, a name of `sgsd.contexts.names` or `module:name` of one's own; it takes the
    place of the method's own context.

    Raises:
        UserError: no such method, no such option, one that is missing, or options that do not make a method.
    """
    known = parameters(name)
    context = None if "context" in known else options.pop("context", None)
    if unknown := [key for key in options if key not in known]:
        raise UserError(f"method.{unknown[0]}: {name} has no such option; {nearest(unknown[0], list(known))}")
    if missing := [key for key, p in known.items() if p.default is p.empty and key not in options]:
        raise UserError(f"method.{missing[0]}: {name} needs it")
    try:
        method = recipe(name)(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"method: {error}") from error
    if not isinstance(method, Method):
        raise UserError(f"method.name: {name} returned {type(method).__name__}, not a Method")
    return method if context is None else with_context(method, context)


def idle_options(method: Mapping[str, Any]) -> list[str]:
    """The options, other than their defaults, that a context in the place of the method's own leaves without effect."""
    name, own = method["name"], defaults(method["name"])
    if method.get("context") is None or "context" in parameters(name):
        return []
    options = {key: value for key, value in method.items() if key != "name"}
    whole = build(name, **options)
    changed = [key for key, value in own.items() if key in options and options[key] != value]
    return [key for key in changed if build(name, **{**options, key: own[key]}) == whole]


def with_context(method: Method, name: str) -> Method:
    """The method with another context; its teachers weigh equally where that retrieves nothing. Raises UserError."""
    context = named_context(name)
    weights = method.weights if "bank" in context.all_needs() else Uniform()
    try:
        return replace(method, context=context, weights=weights)
    except ValueError as error:
        raise UserError(f"method.context: {name} does not fit: {error}") from error
