"""Field types that read a run's JSON files: lenient with old files, and exact about what is wrong and where."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainValidator, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from sgsd.types import UserError

Value = TypeVar("Value")

LARGEST = 1e30  # beyond this a number is an overflow, and it would overflow our own sums as well


class Line(BaseModel):
    """One JSON object of a run's files; keys that it does not know are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def as_float(value: Any) -> float | None:
    """A JSON number as a float (NaN, infinities and overflows as NaN); None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if abs(number) <= LARGEST else math.nan


def should_be(what: str) -> PydanticCustomError:
    return PydanticCustomError("should_be", what)


def _number(value: Any) -> float:
    if (number := as_float(value)) is None:
        raise should_be("a number")
    return number


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 10**15:
        raise should_be("a whole number")
    return value


def _text(value: Any) -> str | None:
    if isinstance(value, Mapping | list):
        raise should_be("a text")
    return None if value is None else str(value)


def _items(value: Any) -> tuple[Any, ...]:
    if value is not None and not isinstance(value, list | tuple):
        raise should_be("a list")
    return tuple(value or ())


def _numbers(value: Any) -> tuple[float, ...]:
    found = [math.nan if item is None else as_float(item) for item in _items(value)]
    if any(item is None for item in found):
        raise should_be("a list of numbers")
    return tuple(item for item in found if item is not None)


def _mask(value: Any) -> tuple[bool, ...]:
    return tuple(item != 0 for item in _numbers([int(x) if isinstance(x, bool) else x for x in _items(value)]))


def _objects(value: Any) -> tuple[Any, ...]:
    if not all(isinstance(item, Mapping | BaseModel) for item in _items(value)):
        raise should_be("a list of objects")
    return _items(value)


Number = Annotated[float, PlainValidator(_number)]
NumberOrNan = Annotated[float, PlainValidator(lambda value: math.nan if value is None else _number(value))]
Whole = Annotated[int, PlainValidator(_whole)]
WholeOrNone = Annotated[int | None, PlainValidator(lambda value: None if value is None else _whole(value))]
Text = Annotated[str, PlainValidator(lambda value: _text(value) or "")]  # absent and null are empty
TextOrNone = Annotated[str | None, PlainValidator(_text)]
Texts = Annotated[tuple[str, ...], PlainValidator(lambda value: tuple(map(str, _items(value))))]
Numbers = Annotated[tuple[float, ...], PlainValidator(_numbers)]  # null in the list is NaN, a null list is empty
Mask = Annotated[tuple[bool, ...], PlainValidator(_mask)]
IsTrue = Annotated[bool, PlainValidator(lambda value: value is True)]
Objects = BeforeValidator(_objects)


def parse(kind: type[Value], fields: Mapping[str, Any], where: str) -> Value:
    """One object of a file as a `kind`; `where` is its place ("metrics.jsonl, line 3").

    Raises UserError: a field is missing or is not what it should be; one line that names the place.
    """
    try:
        found = TypeAdapter(kind).validate_python(fields)
    except ValidationError as error:
        raise UserError(_complaint(error, where)) from error
    return found


def _complaint(error: ValidationError, where: str) -> str:
    problem = error.errors(include_url=False)[0]
    *path, key = problem["loc"] or ("",)
    inside = "".join(f", {name}[{at}]" for name, at in pairwise(path) if isinstance(at, int))
    if problem["type"] == "missing":
        return f"{where}{inside}: field {key!r} is missing; mend or delete the line"
    if problem["type"] != "should_be":
        return f"{where}: {problem['msg']}"
    got = json.dumps(problem["input"], ensure_ascii=True)[:60]
    return f"{where}{inside}: field {key!r} should be {problem['msg']}, not {got}; mend or delete the line"
