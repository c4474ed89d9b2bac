"""The peak of live bytes of a traced function: an estimate of what a compiler will allocate, without compiling.

The rules are those that XLA follows in the main. Elementwise work is fused into what reads it and takes no memory of
its own, unless a matrix product, a loop or a kernel has to read it, or it is arithmetic that several read. The carry of
a loop is updated in place, as are donated arguments; what a loop stacks is allocated whole, and each part is written
there as soon as it is made. Work is done in the order in which it was traced. A CPU multiplies bfloat16 in float32, and
the copies that this takes are counted; those of what a loop does not change are made before it, and by releases of JAX
before 0.11 those of the stacks that it takes apart, too.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal

SAME_BYTES = {"reshape", "squeeze", "expand_dims", "copy", "optimization_barrier", "stop_gradient", "transpose"}
"""The operand under another shape or layout."""
SHARED = {
    *("cos", "div", "erf", "exp", "exp2", "expm1", "log", "log1p", "logistic", "mul", "pow", "rsqrt", "select_n"),
    *("sin", "sqrt", "tanh"),
}
"""Elementwise; fused into one reader, kept where there are several."""
FUSED = {
    *("abs", "add", "add_any", "and", "bitcast_convert_type", "broadcast_in_dim", "ceil", "clamp", "concatenate"),
    *("convert_element_type", "dynamic_slice", "eq", "floor", "gather", "ge", "gt", "integer_pow", "iota"),
    *("is_finite", "le", "lt", "max", "min", "ne", "neg", "not", "or", "pad", "reduce_precision", "rem", "rev"),
    *("round", "shift_left", "shift_right_arithmetic", "shift_right_logical", "sign", "slice", "split", "square"),
    *("sub", "xor"),
}
"""Elementwise, or a selection; fused into every reader, however many there are."""
REDUCTIONS = {"argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod", "reduce_sum"}
"""What they read is fused into them; their results are kept."""
OVERWRITING = {"scatter", "scatter-add", "dynamic_update_slice"}
"""The result takes the place of the first operand where nothing else needs that."""
STACKS_CONVERTED_WHOLE = jax.__version_info__ < (0, 11)
"""Whether the compiler converts a stack of bfloat16 before the loop that takes it apart, or each part in its turn."""
INLINED = {
    *("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
}
"""Their functions are part of the function that calls them."""


def nbytes(tree: Any) -> int:
    """Bytes of all arrays, abstract or not, of a pytree."""
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(tree))


def peak_bytes(jaxpr: Jaxpr, donated: Sequence[bool] | None = None, widened: bool = False) -> int:
    """Most bytes alive at once besides the arguments, results included.

    Args:
      jaxpr: of the function, from `jax.make_jaxpr`.
      donated: for each argument, whether its memory may be used for results; none by default.
      widened: whether products of bfloat16 are computed in float32, as on a CPU: they read float32 copies (of what a
        loop takes apart, see `STACKS_CONVERTED_WHOLE`), and their results are rounded afterwards.
    """
    program = _Program(widened)
    flags = donated or [False] * len(jaxpr.invars)
    values = [program.argument(flag, var.aval) for flag, var in zip(flags, jaxpr.invars, strict=True)]
    outputs = program.trace(jaxpr, values)
    return program.peak(outputs, written=[], carried=[value for value in values if value.owned])


@dataclasses.dataclass(eq=False)
class _Value:
    """What one operation made. `fusible`: it needs no memory unless somebody has to read it from there.

    `half`: products cannot read it as it is. `part_of`: what no turn of the loop changes, and it is a part of.
    """

    size: int
    half: bool = False
    part_of: _Value | None = None
    fusible: bool = False
    shared: bool = False
    view: bool = False
    owned: bool = True
    sources: tuple[_Value, ...] = ()
    readers: int = 0
    kept: bool = True


@dataclasses.dataclass(eq=False)
class _Operation:
    """`reads`: from memory. `fuses`: computed on the way. `inner`: bytes that it needs while it runs."""

    made: list[_Value]
    reads: list[_Value]
    fuses: list[_Value]
    inner: int = 0
    in_place: bool = False


class _Program:
    """The operations of one function, those of the functions it calls among them; loops are single operations."""

    def __init__(self, widened: bool = False) -> None:
        self.operations: list[_Operation] = []
        self.widened = widened
        self.wide_copies: dict[_Value, _Value] = {}
        self.hoisted: list[_Value] = []

    def argument(self, owned: bool, aval: Any) -> _Value:
        return _Value(_bytes(aval), owned=owned, half=self._is_half(aval))

    def _is_half(self, aval: Any) -> bool:
        return self.widened and getattr(aval, "dtype", None) == jnp.bfloat16

    def _made(self, aval: Any, **how: Any) -> _Value:
        return _Value(_bytes(aval), half=self._is_half(aval), **how)

    def _widened(self, value: _Value | None) -> _Value | None:
        """What a matrix product reads: one float32 copy, whoever else reads it."""
        if value is None or not value.half:
            return value
        if value in self.wide_copies:
            return self.wide_copies[value]
        copy = self.wide_copies[value] = _Value(2 * value.size, fusible=True)
        if value.part_of is None:
            self.add([copy], (), [value])
        else:  # made before the loop
            copy.owned = copy.fusible = False
            self.hoisted.append(value)
        return copy

    def _before_loop(self, body: _Program, arguments: Sequence[_Value], inputs: Sequence[_Value | None]) -> list:
        """The copies that a loop has made for it; `arguments`: those of its body, `inputs`: what is passed."""
        copies = []
        for value in body.hoisted:
            source = inputs[arguments.index(value.part_of)]
            if value is not value.part_of and source is not None:
                part = _Value(value.size, half=True, fusible=True, part_of=source.part_of)
                self.add([part], (), [source])
                source = part
            copies.append(self._widened(source))
        return copies

    def product(self, equation: Any, inputs: list[_Value | None]) -> list[_Value]:
        """A matrix product; where bfloat16 is computed in float32, its result is rounded afterwards."""
        made = self._made(equation.outvars[0].aval)
        inputs = [self._widened(value) for value in inputs]
        if made.half:
            wide = _Value(2 * made.size)
            self.add([wide], inputs)
            inputs = [wide]
        self.add([made], inputs)
        return [made]

    def add(self, made: list[_Value], reads: Iterable, fuses: Iterable = (), inner: int = 0, in_place: bool = False):
        kept = lambda values: [value for value in values if value is not None]
        self.operations.append(_Operation(made, kept(reads), kept(fuses), inner, in_place))

    def trace(self, jaxpr: Jaxpr, arguments: Sequence[_Value | None]) -> list[_Value | None]:
        """Adds the operations of `jaxpr`; returns its results. Literals and constants are None."""
        values: dict[Any, _Value | None] = dict(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> _Value | None:
            return None if isinstance(atom, Literal) else values.get(atom)

        for equation in jaxpr.eqns:
            inputs = [read(atom) for atom in equation.invars]
            results = self.equation(equation, inputs)
            values.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, equation: Any, inputs: list[_Value | None]) -> list[_Value | None]:
        name = equation.primitive.name
        avals = [var.aval for var in equation.outvars]
        if name in INLINED:
            return self.trace(_called(equation), inputs)
        if name in ("scan", "while", "cond"):
            run = {"scan": self.scan, "while": self.loop, "cond": self.branches}[name]
            inner, inputs = run(equation, inputs)
            made = [self._made(aval) for aval in avals]
            self.add(made, inputs, inner=inner, in_place=name != "cond")
        elif name in SAME_BYTES:
            made = [self._made(avals[0], fusible=True, view=True)]
            made[0].part_of = _whole(inputs)
            self.add(made, (), inputs)
        elif name in FUSED or name in SHARED:
            made = [self._made(aval, fusible=True, shared=name in SHARED) for aval in avals]
            for value in made:
                value.part_of = _whole(inputs)
            self.add(made, (), inputs, in_place=name == "add_any")  # cotangents are added up in place
        elif name in REDUCTIONS:
            made = [self._made(aval) for aval in avals]
            self.add(made, (), inputs)
        elif name == "dot_general":
            made = self.product(equation, inputs)
        else:
            made = [self._made(aval) for aval in avals]
            self.add(made, inputs, in_place=name in OVERWRITING)
        return list(made)

    def scan(self, equation: Any, inputs: list[_Value | None]) -> tuple[int, list[_Value | None]]:
        """Bytes that one turn of the loop needs besides its arguments and results, and what the loop reads."""
        p = equation.params
        consts, carry = _scan_arguments(equation)
        body, arguments = self._body(p["jaxpr"].jaxpr.invars[: consts + carry], consts)
        for var in p["jaxpr"].jaxpr.invars[consts + carry :]:
            arguments.append(self._part_of_stack(var.aval))
            body.add([arguments[-1]], ())
        outputs = body.trace(p["jaxpr"].jaxpr, arguments)
        inner = body.peak(outputs[:carry], written=outputs[carry:], carried=arguments[consts : consts + carry])
        before = self._before_loop(body, arguments, inputs)
        stacks = inputs[consts + carry :]
        if STACKS_CONVERTED_WHOLE:
            stacks = [self._widened(value) for value in stacks]
        return inner, [*inputs[: consts + carry], *stacks, *before]

    def _part_of_stack(self, aval: Any) -> _Value:
        """What a loop takes from a stack in one turn."""
        part = self._made(aval, fusible=True)
        return _Value(2 * part.size, fusible=True) if part.half and STACKS_CONVERTED_WHOLE else part

    def loop(self, equation: Any, inputs: list[_Value | None]) -> tuple[int, list[_Value | None]]:
        """As `scan`."""
        p = equation.params
        consts = p["body_nconsts"]
        body, arguments = self._body(p["body_jaxpr"].jaxpr.invars, consts)
        inner = body.peak(body.trace(p["body_jaxpr"].jaxpr, arguments), written=[], carried=arguments[consts:])
        return inner, [*inputs, *self._before_loop(body, arguments, inputs[p["cond_nconsts"] :])]

    def _body(self, variables: Sequence[Any], consts: int) -> tuple[_Program, list[_Value]]:
        """The program of a loop's body and its arguments, of which the first `consts` never change."""
        body = _Program(self.widened)
        arguments = [body.argument(i >= consts, var.aval) for i, var in enumerate(variables)]
        for value in arguments[:consts]:
            value.part_of = value
        return body, arguments

    def branches(self, equation: Any, inputs: list[_Value | None]) -> tuple[int, list[_Value | None]]:
        """Bytes that the larger branch needs besides its results, and what it reads."""
        peaks = [peak_bytes(branch.jaxpr, widened=self.widened) for branch in equation.params["branches"]]
        return max(max(peaks) - sum(_bytes(var.aval) for var in equation.outvars), 0), inputs

    def peak(self, outputs: Sequence, written: Sequence, carried: Sequence = ()) -> int:
        """Most bytes alive at once besides arguments.

        `written`: results that go straight into what a loop stacks. `carried`: arguments that may be overwritten.
        """
        outputs = [value for value in outputs if value is not None]
        self._write({value for value in written if value is not None})
        self.add([], outputs)
        self._drop_dead()
        self._settle()
        work = [op for op in self.operations if not op.made or any(value.kept for value in op.made)]
        reads = [_sources(op) for op in work]
        last: dict[_Value, int] = {}
        for i, sources in enumerate(reads):
            last.update(dict.fromkeys(sources, i))
        last.update(dict.fromkeys(outputs, len(work)))
        memory = _Memory(set(carried), set(outputs))
        for i, op in enumerate(work):
            memory.run(op, [value for value in reads[i] if last[value] == i and value.owned])
            memory.free(value for value in op.made if value.kept and value not in last)
        return memory.most

    def _write(self, values: set[_Value]) -> None:
        """What a loop stacks is written there as soon as it is made."""
        before = values - {value for op in self.operations for value in op.made}
        operations = [_Operation([], [], [value]) for value in before]
        for op in self.operations:
            operations += [op, *(_Operation([], [], [value]) for value in op.made if value in values)]
        self.operations = operations

    def _drop_dead(self) -> None:
        """Leaves out operations whose results nobody reads, and results that nobody reads."""
        wanted: set[_Value] = set()
        needed = []
        for op in reversed(self.operations):
            if op.made and not any(value in wanted for value in op.made):
                continue
            op.made = [value for value in op.made if value in wanted]
            wanted.update(op.reads, op.fuses)
            needed.append(op)
        self.operations = needed[::-1]

    def _settle(self) -> None:
        """Decides which results are kept in memory, from the last to the first."""
        must: set[_Value] = set()
        readers: collections.Counter[_Value] = collections.Counter()
        for op in reversed(self.operations):
            for value in op.made:
                value.kept = not value.fusible or value in must or (value.shared and readers[value] > 1)
                if value.view and value.kept:
                    value.kept = False
                    must.update(op.fuses)
            must.update(op.reads)
            readers.update(set(op.reads) | set(op.fuses))
            for value in op.made:
                value.sources = tuple(op.reads) + tuple(op.fuses)


@dataclasses.dataclass
class _Memory:
    """Bytes alive now and at most.

    Attributes:
      carried: values that live in the memory of arguments. outputs: values that are results.
      room: sizes of arguments' memory that is not needed any more.
    """

    carried: set[_Value]
    outputs: set[_Value]
    room: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    live: int = 0
    most: int = 0

    def run(self, op: _Operation, dying: list[_Value]) -> None:
        """Makes the results of an operation, then frees what nobody reads after it."""
        direct = _sources(op, views=False)
        for value in op.made:
            if value.kept:
                self._place(value, [v for v in dying if v in direct and v.size == value.size], op.in_place, dying)
        self.most = max(self.most, self.live + op.inner)
        self.free(dying)

    def _place(self, value: _Value, candidates: list[_Value], in_place: bool, dying: list[_Value]) -> None:
        taken = next((v for v in candidates if in_place or (value.fusible and v in self.carried)), None)
        if taken is not None:
            dying.remove(taken)
            if taken in self.carried:
                self.carried.add(value)
        elif value in self.outputs and self.room[value.size]:
            self.room[value.size] -= 1
            self.carried.add(value)
        else:
            self.live += value.size

    def free(self, values: Iterable[_Value]) -> None:
        for value in values:
            if value in self.carried:
                self.room[value.size] += 1
            else:
                self.live -= value.size


def _sources(op: _Operation, views: bool = True) -> set[_Value]:
    """The values in memory that an operation reads, through everything that is fused into it.

    Without `views`, only those that it reads element by element in their own shape, so that it may overwrite them.
    """
    found: set[_Value] = set()
    pending = [*op.reads, *op.fuses]
    seen: set[_Value] = set()
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        if value.kept:
            found.add(value)
        elif views or not value.view:
            pending.extend(value.sources)
    return found


def _whole(inputs: Sequence[_Value | None]) -> _Value | None:
    """Of what a selection from these is a part."""
    arrays = [value for value in inputs if value is not None]
    return arrays[0].part_of if len(arrays) == 1 else None


def _called(equation: Any) -> Jaxpr:
    """The function that an equation calls."""
    inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
    return getattr(inner, "jaxpr", inner)


def _scan_arguments(equation: Any) -> tuple[int, int]:
    """How many arguments of a scan are constants, and how many, after them, are carried.

    Counted by axes, since releases of JAX keep these numbers in different ways: only what is stacked has one axis more
    outside the loop than in it.
    """
    body = equation.params["jaxpr"].jaxpr
    ranks = lambda variables: [len(var.aval.shape) for var in variables]
    carry = sum(map(int.__eq__, ranks(equation.outvars), ranks(body.outvars)))
    consts = sum(map(int.__eq__, ranks(equation.invars), ranks(body.invars))) - carry
    return consts, carry


def _bytes(aval: Any) -> int:
    """A PRNG key counts as its two words."""
    return math.prod(getattr(aval, "shape", ())) * getattr(getattr(aval, "dtype", None), "itemsize", 8)
