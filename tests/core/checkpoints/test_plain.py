"""Dataclasses of plain values, to JSON and back, strictly."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest

from napari_unet.core.checkpoints.plain import from_plain, to_json


@dataclass(frozen=True, kw_only=True)
class Inner:
    kind: Literal["a", "b"]
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Outer:
    n: int
    x: float = 1.0
    flag: bool = False
    name: str | None = None
    sizes: tuple[int, ...] = ()
    pair: tuple[int, float] = (0, 0.0)
    nested: tuple[tuple[int, int], ...] = ()
    inner: tuple[Inner, ...] = ()
    either: int | tuple[int, ...] = 1


FULL = Outer(
    n=3, x=0.5, flag=True, name="x", sizes=(1, 2), pair=(1, 2.5), nested=((1, 2), (3, 4)),
    inner=(Inner(kind="a", values={"size": (1, (2, 3)), "on": True}),), either=(2, 2),
)  # fmt: skip


def test_it_comes_back_as_it_went():
    assert from_plain(Outer, json.loads(to_json(FULL))) == FULL


def test_defaults_fill_what_is_missing():
    assert from_plain(Outer, {"n": 1}) == Outer(n=1)


def test_whole_numbers_are_numbers_and_numpys_are_plain():
    assert from_plain(Outer, {"n": 1, "x": 2}).x == 2.0
    assert from_plain(Outer, json.loads(to_json(Outer(n=np.int64(4))))).n == 4


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "n of Outer is missing"),
        ({"n": 1, "what": 2}, "knows no 'what'"),
        ({"n": 1.0}, "n must be int"),
        ({"n": True}, "n must be int"),
        ({"n": 1, "flag": 1}, "flag must be bool"),
        ({"n": 1, "x": "1"}, "x must be float"),
        ({"n": 1, "name": 5}, "name must be"),
        ({"n": 1, "sizes": 5}, "sizes must be a list"),
        ({"n": 1, "sizes": [1, "2"]}, "sizes must be int"),
        ({"n": 1, "pair": [1]}, "pair must be 2 values"),
        ({"n": 1, "inner": [{"kind": "c"}]}, "kind must be one of"),
        ({"n": 1, "inner": [5]}, "Inner cannot be made from 5"),
        ({"n": 1, "inner": [{"kind": "a", "values": [1]}]}, "values must be values by name"),
        ([1], "Outer cannot be made from"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_plain(Outer, values)
