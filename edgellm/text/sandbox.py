"""Where templates out of model files run: they compute a prompt, and can neither escape nor hang nor fill the machine.

jinja2's own sandbox keeps them from Python's internals, but not from `{{ 7 ** 9 ** 9 }}`. So here a template has a number of steps
to spend: a value costs its characters and VALUE_STEPS for itself and for each value in it, and a call and a turn of a loop cost
VALUE_STEPS too. What can multiply sizes is paid for before it runs, or is not there: filters and methods are those on two lists,
which hold what chat templates use. Numbers have 64 bits.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from edgellm.errors import ModelFileError

MAX_STEPS = 10_000_000
VALUE_STEPS = 20
MAX_TEMPLATE = 100_000  # characters
MAX_INDENT = 100  # spaces of one level of JSON
MAX_STRIPPED = 100  # different characters that `strip` may look for, which takes the product of both lengths

FILTERS = frozenset(
    "abs capitalize count d default dictsort e escape first float int items last length list lower map max min reject rejectattr "
    "reverse safe select selectattr sort string title unique upper".split()
)
"""Those of jinja2; `join`, `replace`, `tojson` and `trim` are below."""
METHODS = frozenset(
    "capitalize changed count cycle endswith find get index items join keys lower lstrip removeprefix removesuffix replace rstrip "
    "split splitlines startswith strip title upper values".split()
)
"""Of strings, lists, mappings and jinja2's `loop`."""


class Sandbox(ImmutableSandboxedEnvironment):
    """A jinja2 environment for one rendering: its steps are never given back.

    functions: what a template may call besides `range`, `dict` and `namespace`

    Compiling or rendering raises ModelFileError for a template that takes too many steps, and whatever its expressions raise.
    """

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, **functions: Callable[..., Any]) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        self._steps = MAX_STEPS
        own = {"join": self._join, "replace": self._replace, "tojson": self._tojson, "trim": self._trim}
        self.filters = {name: self._paid(filter_) for name, filter_ in self.filters.items() if name in FILTERS} | own
        self.globals = {"range": self.globals["range"], "dict": _new_dict, "namespace": _Namespace, **functions}

    def spend(self, steps: int) -> None:
        """Take steps from what is left; ModelFileError if there are too few."""
        self._steps -= steps
        if self._steps < 0:
            raise ModelFileError(f"the model's chat template takes more than {MAX_STEPS} steps")

    def made(self, value: Any = None) -> Any:
        """The value, paid for with all that is in it, as often as it is in it."""
        todo = [value]
        while todo:
            part = todo.pop()
            self.spend(VALUE_STEPS)
            if isinstance(part, str | range):
                self.spend(len(part))
            elif isinstance(part, Collection):
                todo.extend(part)
                todo.extend(part.values() if isinstance(part, Mapping) else ())
            elif isinstance(part, int) and part.bit_length() > 64:
                raise ModelFileError("the model's chat template computes with numbers beyond 64 bits")
        return value

    def concat(self, pieces: Iterable[Any]) -> str:
        """All text that is put together of pieces: by `~`, in blocks and macros, and the whole output."""
        texts = []
        for piece in pieces:
            texts.append(text := str(piece))
            self.spend(len(text))
        return "".join(texts)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Any call in a template."""
        text, name = getattr(function, "__self__", None), getattr(function, "__name__", None)
        if isinstance(text, str):
            if name == "join":
                return self._join(args[0], text)
            if name == "replace":
                self._pay_replace(text, *args[:2])
            elif name in ("strip", "lstrip", "rstrip"):
                _check_stripped(*args)
        return self.made(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Any operation on two values."""
        if operator == "%" and isinstance(left, str):
            raise ModelFileError("the model's chat template formats text with %, which is not implemented")
        if operator == "*":
            self._pay_repetition(left, right)
            self._pay_repetition(right, left)
        if operator == "**" and isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > 64:
            raise ModelFileError("the model's chat template computes with numbers beyond 64 bits")
        return self.made(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Data, and METHODS."""
        is_method = getattr(value, "__self__", None) is obj
        return super().is_safe_attribute(obj, attr, value) and (attr in METHODS or not is_method)

    def wrap_str_format(self, value: Any) -> None:
        """Nothing: `format` would come past METHODS here."""

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > MAX_TEMPLATE:
            raise ModelFileError(f"the model's chat template has {len(source)} characters; possible: up to {MAX_TEMPLATE}")
        tree = super()._parse(source, name, filename)
        _Pricing().visit(tree)
        return tree

    def _paid(self, filter_: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(filter_)  # with jinja2's mark of what to pass it
        def paid(*args: Any, **kwargs: Any) -> Any:
            return self.made(filter_(*args, **kwargs))

        return paid

    def _join(self, items: Iterable[Any], separator: str = "") -> str:
        return self.concat(piece for i, item in enumerate(items) for piece in ((separator, item) if i else (item,)))

    def _replace(self, text: Any, old: str, new: str, count: int = -1) -> str:
        self._pay_replace(str(text), old, new)
        return str(text).replace(old, new, count)

    def _pay_repetition(self, items: Any, times: Any) -> None:
        if isinstance(items, str | list | tuple) and isinstance(times, int):
            self.spend(len(items) * max(times, 0))

    def _pay_replace(self, text: str, old: str, new: str) -> None:
        self.spend(len(text) + text.count(old) * len(new))

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """JSON as transformers writes it; jinja2's own filter escapes for HTML."""
        if indent is not None and not 0 <= indent <= MAX_INDENT:
            raise ModelFileError(f"the model's chat template indents JSON by {indent!r:.20}; possible: up to {MAX_INDENT}")
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        return self.concat(encoder.iterencode(value))

    def _trim(self, text: Any, characters: str | None = None) -> str:
        _check_stripped(characters)
        trimmed: str = self.made(str(text).strip(characters))
        return trimmed


class _Pricing(NodeTransformer):
    """Sees to it that the values which jinja2 makes without asking its environment are paid for, and each turn of a loop."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        """The node, or a call that has it as its argument."""
        self.generic_visit(node, *args, **kwargs)
        match node:
            case nodes.List() | nodes.Dict() | nodes.Tuple(ctx="load"):
                return _call("made", node)
            case nodes.Concat():
                return _call("concat", nodes.List(node.nodes))
            case nodes.For():
                node.body.insert(0, nodes.ExprStmt(_call("made")))
        return node


class _Namespace(Namespace):
    """jinja2's, whose text would be that of all it holds: a few that hold each other twice have no end."""

    def __repr__(self) -> str:
        return "<Namespace>"


def _call(name: str, *args: nodes.Expr) -> nodes.Call:
    """A call of the environment's method: no variable of the template can take its place."""
    return nodes.Call(nodes.EnvironmentAttribute(name), list(args), [], None, None)


def _new_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)  # the type itself has `fromkeys`, and `update` for other dicts


def _check_stripped(characters: str | None = None) -> None:
    if characters is not None and len(characters) > MAX_STRIPPED:
        raise ModelFileError(f"the model's chat template strips {len(characters)} characters; possible: up to {MAX_STRIPPED}")
