"""Walks through the text of a TorchScript program, statement by statement.

The text is only ever parsed; what each statement does is decided here. The only functions there
are, besides those in the text itself, are those of `ATEN` and a few of Python's plainest.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from napari_unet.core.checkpoints.containers.source import shown
from napari_unet.core.checkpoints.graphs import aten_numbers as _numbers
from napari_unet.core.checkpoints.graphs.aten_numbers import plain_number
from napari_unet.core.checkpoints.graphs.recording import Recorder
from napari_unet.core.checkpoints.graphs.torchscript_ops import call, is_feature
from napari_unet.core.errors import ModelFileError

__all__ = ["Interpreter", "Stored", "Texts"]

MOST_STATEMENTS = 60_000
DEEPEST = 100

assert _numbers.NUMBERS  # imported for what it adds to `ATEN`


@dataclass(slots=True, eq=False)
class Stored:
    """An object of the file: the name of its class, and its attributes."""

    kind: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Dotted:
    """A name that is no variable: "torch.conv2d", "__torch__.nets.UNet"."""

    path: str


@dataclass(frozen=True, slots=True, eq=False)
class _Method:
    of: Stored
    name: str


@dataclass(slots=True, eq=False)
class Texts:
    """The classes and functions of a program by their full names, parsed when first needed.

    Attributes
    ----------
    modules : text of each file by its dotted name, "__torch__.nets".
    """

    modules: Mapping[str, str]
    _parsed: dict[str, dict[str, ast.stmt]] = field(default_factory=dict)

    def find(self, path: str) -> ast.FunctionDef | ast.ClassDef | None:
        """The class or function of a full name."""
        module, _, name = path.rpartition(".")
        if module not in self.modules:
            return None
        if module not in self._parsed:
            self._parsed[module] = _definitions(self.modules[module], module)
        found = self._parsed[module].get(name)
        return found if isinstance(found, ast.FunctionDef | ast.ClassDef) else None

    def method(self, kind: str, name: str) -> ast.FunctionDef | None:
        """A method of a class."""
        found = self.find(kind)
        for one in found.body if isinstance(found, ast.ClassDef) else ():
            if isinstance(one, ast.FunctionDef) and one.name == name:
                return one
        return None

    def constant(self, kind: str, name: str) -> Any:
        """A constant that a class states, such as `stride : Final[int] = 2`; `KeyError`."""
        found = self.find(kind)
        for one in found.body if isinstance(found, ast.ClassDef) else ():
            match one:
                case ast.AnnAssign(target=ast.Name(id=known), value=value) if (
                    known == name and value
                ):
                    return ast.literal_eval(value)
        raise KeyError(name)


def _definitions(text: str, module: str) -> dict[str, ast.stmt]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ModelFileError(
            f"The program in this file cannot be read ({shown(module)}); the file is damaged."
        ) from error
    return {one.name: one for one in tree.body if isinstance(one, ast.FunctionDef | ast.ClassDef)}


class _Returned(Exception):
    """Ends a function."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


Scope = dict[str, Any]

_BUILTINS: Mapping[str, Callable[..., Any]] = {
    "int": lambda value: int(plain_number(value)),
    "float": lambda value: float(plain_number(value)),
    "bool": lambda value: bool(plain_number(value)),
    "str": lambda value: str(value)[:1000],
    "len": len,
    "print": lambda *_: None,
    "list": lambda values: list(values),
    "ord": ord,
    "abs": abs,
}
_VALUES = {"inf": math.inf, "nan": math.nan, "infj": None}


@dataclass(slots=True, eq=False)
class Interpreter:
    """Follows one program for one recorder.

    Attributes
    ----------
    texts : its classes and functions.
    constants : what it calls CONSTANTS.c0, CONSTANTS.c1 ...
    """

    texts: Texts
    constants: Sequence[Any]
    recorder: Recorder
    _n_done: int = 0
    _depth: int = 0

    def run(self, network: Stored) -> Any:
        """What the method `forward` of the network gives for the image."""
        return self._method(_Method(network, "forward"), [self.recorder.image], {})

    # -- functions ---------------------------------------------------------------------------------

    def _method(self, method: _Method, args: list[Any], named: Mapping[str, Any]) -> Any:
        found = self.texts.method(method.of.kind, method.name)
        if found is None:
            raise self._unknown(f"{method.of.kind}.{method.name}")
        return self._function(found, [method.of, *args], named)

    def _function(self, found: ast.FunctionDef, args: list[Any], named: Mapping[str, Any]) -> Any:
        parameters = found.args.args
        defaults = found.args.defaults
        scope: Scope = {}
        for parameter, default in zip(
            parameters[len(parameters) - len(defaults) :], defaults, strict=True
        ):
            scope[parameter.arg] = self._value(default, {})
        scope |= {parameter.arg: value for parameter, value in zip(parameters, args, strict=False)}
        scope |= named
        if any(parameter.arg not in scope for parameter in parameters) or len(args) > len(
            parameters
        ):
            raise self.recorder.refuse(f"'{shown(found.name)}' gets too few or too many arguments")
        self._depth += 1
        if self._depth > DEEPEST:
            raise self.recorder.refuse("it is nested more deeply than any network")
        try:
            self._block(found.body, scope)
        except _Returned as returned:
            return returned.value
        finally:
            self._depth -= 1
        return None

    def _unknown(self, name: str) -> ModelFileError:
        return self.recorder.refuse(f"its function '{shown(name)}' is not known here")

    # -- statements --------------------------------------------------------------------------------

    def _block(self, body: Sequence[ast.stmt], scope: Scope) -> None:
        for statement in body:
            self._n_done += 1
            if self._n_done > MOST_STATEMENTS:
                self.recorder.hopeless = True
                raise self.recorder.refuse("it goes on far longer than any network")
            self._statement(statement, scope)

    def _statement(self, statement: ast.stmt, scope: Scope) -> None:
        match statement:
            case ast.Assign(targets=targets, value=value):
                result = self._value(value, scope)
                for target in targets:
                    self._assign(target, result, scope)
            case ast.AnnAssign(target=target, value=value) if value is not None:
                self._assign(target, self._value(value, scope), scope)
            case ast.Expr(value=value):
                self._value(value, scope)
            case ast.Return(value=value):
                raise _Returned(None if value is None else self._value(value, scope))
            case ast.If(test=test, body=body, orelse=orelse):
                self._block(body if self._truth(test, scope) else orelse, scope)
            case ast.For(target=target, iter=values, body=body):
                for value in self._iterated(values, scope):
                    self._assign(target, value, scope)
                    self._block(body, scope)
            case ast.While(test=test, body=body):
                while self._truth(test, scope):
                    self._block([*body, ast.Pass()], scope)  # an empty body counts too
            case ast.Pass() | ast.AnnAssign():
                pass
            case _:
                raise self._not_understood(statement)

    def _not_understood(self, node: ast.AST) -> ModelFileError:
        return self.recorder.refuse(f"it has a statement of the kind '{type(node).__name__}'")

    def _truth(self, test: ast.expr, scope: Scope) -> bool:
        value = plain_number(self._value(test, scope))
        if is_feature(value):
            raise self.recorder.refuse("it decides by the values of the image what to do")
        return bool(value)

    def _iterated(self, node: ast.expr, scope: Scope) -> list[Any]:
        values = self._value(node, scope)
        if not isinstance(values, list | tuple | range) or len(values) > MOST_STATEMENTS:
            raise self._not_understood(node)
        return list(values)

    def _assign(self, target: ast.expr, value: Any, scope: Scope) -> None:
        match target:
            case ast.Name(id=name):
                scope[name] = value
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                values = list(value) if isinstance(value, list | tuple) else [value]
                if len(values) != len(targets):
                    raise self._not_understood(target)
                for one, part in zip(targets, values, strict=True):
                    self._assign(one, part, scope)
            case _:
                raise self._not_understood(target)

    # -- expressions -------------------------------------------------------------------------------

    def _value(self, node: ast.expr, scope: Scope) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return scope[name] if name in scope else _VALUES.get(name, _Dotted(name))
            case ast.Attribute(value=value, attr=name):
                return self._attribute(self._value(value, scope), name)
            case ast.Tuple(elts=values):
                return tuple(self._value(one, scope) for one in values)
            case ast.List(elts=values):
                return [self._value(one, scope) for one in values]
            case ast.Dict(keys=keys, values=values):
                return {
                    self._value(key, scope): self._value(value, scope)
                    for key, value in zip(keys, values, strict=True)
                    if key is not None
                }
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return call(self.recorder, "neg", [self._value(operand, scope)], {})
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._truth(operand, scope)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self._value(body if self._truth(test, scope) else orelse, scope)
            case ast.Subscript(value=value, slice=index):
                return self._item(self._value(value, scope), self._value(index, scope))
            case ast.Call():
                return self._call(node, scope)
            case _:
                raise self._not_understood(node)

    def _item(self, values: Any, index: Any) -> Any:
        index = plain_number(index)
        try:
            return values[index]
        except (TypeError, LookupError) as error:
            raise self.recorder.refuse("it looks up something that is not there") from error

    def _attribute(self, value: Any, name: str) -> Any:
        if isinstance(value, _Dotted):
            if value.path == "CONSTANTS" and name[1:].isdigit():
                return self._item(self.constants, int(name[1:]))
            return _Dotted(f"{value.path}.{name}")
        if not isinstance(value, Stored):
            return _Dotted(f"aten.{name}") if name in ("shape",) else self._no_attribute(name)
        if name == "training":
            return False
        if name in value.values:
            return value.values[name]
        if self.texts.method(value.kind, name) is not None:
            return _Method(value, name)
        try:
            return self.texts.constant(value.kind, name)
        except (KeyError, ValueError):
            return self._no_attribute(name)

    def _no_attribute(self, name: str) -> Any:
        raise self.recorder.refuse(f"it looks for '{shown(name)}', which is not in the file")

    def _call(self, node: ast.Call, scope: Scope) -> Any:
        function = self._value(node.func, scope)
        if isinstance(function, _Dotted) and function.path in ("annotate", "unchecked_cast"):
            return self._value(node.args[-1], scope)
        if isinstance(function, _Dotted) and function.path == "uninitialized":
            return None
        args = [self._value(one, scope) for one in node.args]
        named = {one.arg: self._value(one.value, scope) for one in node.keywords if one.arg}
        if isinstance(function, _Method):
            return self._method(function, args, named)
        if not isinstance(function, _Dotted):
            raise self._not_understood(node)
        return self._dotted(function.path, args, named)

    def _dotted(self, path: str, args: list[Any], named: Mapping[str, Any]) -> Any:
        root, _, name = path.partition(".")
        try:
            if not name and root in _BUILTINS:
                return _BUILTINS[root](*args)
            if path == "range":
                return range(*(int(plain_number(one)) for one in args))
            if path == "getattr":
                return self._attribute(args[0], str(args[1]))
        except (TypeError, ValueError, IndexError) as error:
            raise self.recorder.refuse(f"its function '{path}' is called in an odd way") from error
        if root == "__torch__":
            found = self.texts.find(path)
            if isinstance(found, ast.FunctionDef):
                return self._function(found, args, named)
            raise self._unknown(path)
        if name == "prim.RaiseException":
            raise self.recorder.refuse(f"it refuses the image itself: {shown(args[:1])}")
        if root == "torch" or path.startswith(("ops.prim.", "ops.aten.")):
            known = name.rpartition(".")[2]
            return call(self.recorder, known, args, named)
        raise self._unknown(path)
