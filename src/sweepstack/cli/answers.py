"""Prints what a model answers for the items of files: a line for each item, CSV or JSON."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from sweepstack.errors import printable
from sweepstack.inference.predictor import Answer
from sweepstack.strict_json import print_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEXT_BEST = 2
"""The number of classes, or of labels that are not there, that are shown after the others."""
MOST_NUMBERS = 10
"""The most predicted numbers of an item that are shown as text."""

Names = Sequence[str] | Sequence[int]
"""The names of classes or labels; their indices if they have none."""


class Answered(NamedTuple):
    """What a model answers for an item."""

    file: str
    row: int | None
    """The index of the item in its file, from 0; None where all files are pictures."""
    values: NDArray[Any]
    """Probabilities or numbers."""


def print_answers(found: Iterable[Answered], answer: Answer, form: str, names: Sequence[str] | None = None) -> None:
    """Prints answers on standard output, one after the other; as JSON all at once.

    Args:
        found: the answers.
        answer: what they are.
        form: text, csv or json.
        names: the names of the classes, if they have names.
    """
    if form == "json":
        print_json([{**_source(one), **_record(one, answer, names)} for one in found])
        return
    writer: Any = csv.writer(sys.stdout, lineterminator="\n")
    for index, one in enumerate(found):
        if form == "text":
            source = one.file if one.row is None else f"{one.file}[{one.row}]"
            values = one.values.flatten().tolist()
            click.echo(printable(f"{source}  {TEXTS[answer](values, names or range(len(values)))}"))
            continue
        record = {**_source(one), **_record(one, answer, names)}
        record.pop("probabilities", None)
        record.pop("predictions", None)
        if "labels" in record:
            record["labels"] = " ".join(map(str, record["labels"]))
        numbers = one.values.flatten().tolist()
        if index == 0:
            sign = "y" if answer in (Answer.NUMBERS, Answer.OWN) else "p"
            writer.writerow([*record, *(f"{sign}{number}" for number in range(len(numbers)))])
        writer.writerow([*record.values(), *numbers])


def _source(one: Answered) -> dict[str, Any]:
    return {"file": one.file} if one.row is None else {"file": one.file, "row": one.row}


def _record(one: Answered, answer: Answer, names: Sequence[str] | None) -> Mapping[str, Any]:
    """Returns an answer by the names that JSON gives to its parts."""
    values = one.values.tolist()
    match answer:
        case Answer.CLASS:
            best = _ranked(values)[0]
            name = {} if names is None else {"name": names[best]}
            return {"class": best, **name, "probability": values[best], "probabilities": values}
        case Answer.LABELS:
            return {"labels": _there(values), "probabilities": values}
        case _:
            return {"predictions": values}


def _ranked(values: list[float]) -> list[int]:
    """Returns the indices of values, that of the largest one first."""
    return sorted(range(len(values)), key=lambda index: -values[index])


def _there(values: list[float]) -> list[int]:
    """Returns the labels that are there."""
    return [label for label, probability in enumerate(values) if probability > 0.5]


def _with_probability(values: list[float], indices: Iterable[int], names: Names, separator: str = " ") -> str:
    return ", ".join(f"{names[index]}{separator}{values[index]:.1%}" for index in indices)


def _class_text(values: list[float], names: Names) -> str:
    first, *others = _ranked(values)[: NEXT_BEST + 1]
    return f"{_with_probability(values, [first], names, '  ')}  (then {_with_probability(values, others, names)})"


def _labels_text(values: list[float], names: Names) -> str:
    there = _there(values)
    others = [label for label in _ranked(values) if label not in there][:NEXT_BEST]
    rest = f"  (not {_with_probability(values, others, names)})" if others else ""
    return f"{_with_probability(values, there, names) or 'no label'}{rest}"


def _numbers_text(values: list[float], names: Names) -> str:
    shown = "  ".join(f"{value:.6g}" for value in values[:MOST_NUMBERS])
    more = len(values) - MOST_NUMBERS
    return f"{shown}  (and {more:,} more)" if more > 0 else shown


TEXTS: Mapping[Answer, Callable[[list[float], Names], str]] = {
    Answer.CLASS: _class_text,
    Answer.LABELS: _labels_text,
    Answer.NUMBERS: _numbers_text,
    Answer.OWN: _numbers_text,
}
"""How each kind of answer is written as text."""
