"""Every weight matrix of a checkpoint as a layer: what its tensors are, what is declared and what was intended."""

from __future__ import annotations

import fnmatch
import functools
import math
import re
from collections.abc import Mapping, Set
from typing import NamedTuple

import numpy

from day0.checkpoint.declaration import Declaration
from day0.checkpoint.formats import FORMATS, FULL_PRECISION, Form, bytes_of, logical_shapes, problem_of
from day0.checkpoint.intentions import Intention, Patterns
from day0.checkpoint.names import KV_PART, NUMBER, PART, PART_NAMES
from day0.checkpoint.summary import KEPT, Layer, Layers
from day0.recipe.modules import NOT_LINEAR, family_of
from day0.source.safetensors_headers import BITS, Tensor
from day0.source.tensors import Ints, Kind, Tensors, rows_named

# Stacks of layers beside the text model's, whose numbers may be larger.
_OTHER_STACK = re.compile(r"audio|vision|visual|encoder|tower")
Parts = tuple[tuple[str, Form], ...]  # the scales of a weight, by the ends of their names


def algorithm_of(weight: Form, parts: Parts) -> str:
    """The first algorithm whose tensors look like these, else the weight's dtype."""
    if weight[0] in FULL_PRECISION:
        return weight[0]
    return next(
        (
            name
            for name, form in FORMATS.items()
            for group in dict.fromkeys((form.group, 16, 32, 64, 128) if form.layout == "group" else (None,))
            if problem_of(name, group, weight, parts) is None
        ),
        weight[0],
    )


class _Weights(NamedTuple):
    """Weight matrices whose names differ in numbers alone: number of the kind, their rows by key, and their modules."""

    kind: int
    rows: Ints
    module: Kind


class _Parts(NamedTuple):
    """Scales whose names differ in numbers alone: number of the kind, their modules and the end of their names."""

    kind: int
    module: Kind
    part: str


class SortedTensors:
    """Names of tensors: weight matrices with their parts, and all else.

    Attributes:
        tensors: all of them.
        weights: the weight matrices by kind.
        parts: their scales by kind.
        others: names of all else.
    """

    def __init__(self, tensors: Tensors, weights: list[_Weights], parts: list[_Parts], others: Ints) -> None:
        self.tensors, self.weights, self.parts = tensors, weights, parts
        self.others = tensors.names(others)
        self._is_weight = numpy.zeros(len(tensors), bool)
        self._is_weight[self.rows] = True

    @functools.cached_property
    def rows(self) -> Ints:
        """Rows of the weights, in order."""
        return numpy.sort(numpy.concatenate([numpy.empty(0, numpy.int64), *(one.rows for one in self.weights)]))

    def modules(self) -> dict[str, str]:
        """The modules of the weights with the names of these, in order."""
        return {name.removesuffix(".weight"): name for name in self.tensors.names(self.rows)}

    def weight_of(self, module: str) -> str | None:
        """Name of a module's weight; None: it has none."""
        names = (f"{module}.weight", module)
        return next((n for n in names if (row := self.tensors.row(n)) >= 0 and self._is_weight[row]), None)

    def holders(self, part: str) -> list[str]:
        """Modules that have a part."""
        kinds = [one for one in self.parts if one.part == part]
        return [name for one in kinds for name in one.module.names(self.tensors.keys_of(one.kind))]


def sort_tensors(tensors: Mapping[str, Tensor], part_names: Set[str] = PART_NAMES) -> SortedTensors:
    """Sort tensors into weight matrices, their scales and everything else.

    Args:
        tensors: headers of the checkpoint.
        part_names: last parts of the names of scales.
    """
    held = Tensors.of(tensors)
    dimensions = held.forms.column(lambda form: len(form[1]))
    weights: list[_Weights] = []
    parts: list[_Parts] = []
    others: list[Ints] = [numpy.empty(0, numpy.int64)]
    for number, kind in held.present():
        stem, rows = kind.stem, held.rows_of(number)
        module, _, leaf = stem.rpartition(".")
        found: tuple[str, str] | None = (module, leaf) if leaf in part_names and leaf != "weight" else None
        is_fused = ".experts." in stem
        if found is None and leaf != "weight" and (is_fused or "_scale" in leaf):
            match = PART.fullmatch(stem) if not KV_PART.fullmatch(kind.sample) else None
            found = (match["module"], match["part"]) if match else None
        if found is not None:
            parts.append(_Parts(number, Kind(found[0], kind.numbers), found[1]))
            continue
        allowed = (2, 3) if leaf == "weight" else (3,) if is_fused else ()
        is_weight = numpy.isin(dimensions[held.form[rows]], allowed)
        if is_weight.any():
            of_module = kind if leaf != "weight" else Kind(module, kind.numbers)
            weights.append(_Weights(number, rows[is_weight], of_module))
        others.append(rows[~is_weight])
    return SortedTensors(held, weights, parts, numpy.sort(numpy.concatenate(others)))


class _About(NamedTuple):
    """What a module's name says about it."""

    is_linear: bool
    intended: bool | Intention | None
    family: str


class _DeclaredFor(NamedTuple):
    """What is declared for a module."""

    algorithm: str | None = None
    group: int | None = None
    is_excluded: bool = False


class _Reader:
    """Makes the layers of a checkpoint; what depends on a name's pattern or on dtypes and shapes is worked out once."""

    def __init__(self, declaration: Declaration | None, patterns: Patterns | None, layer_count: int | None) -> None:
        self.declaration, self.patterns, self.layer_count = declaration, patterns, layer_count
        self.follows_tensors = declaration is not None and declaration.follows_tensors
        self.names_experts = declaration is not None and declaration.names_experts
        self.intends_experts = patterns is not None and patterns.names_experts
        self.intends_mtp = patterns is not None and patterns.names_mtp
        self.excluded: tuple[set[str], re.Pattern[str] | None] | None = None
        if declaration is not None and declaration.layers is None and not declaration.targets:
            exact = {pattern for pattern in declaration.excluded if not re.search(r"[*?[]", pattern)}
            globs = [fnmatch.translate(pattern) for pattern in declaration.excluded if pattern not in exact]
            self.excluded = exact, re.compile("|".join(globs)) if globs else None
        self.tells_layers_apart = patterns is not None and patterns.tells_numbers_apart
        self.intended: dict[str, bool | Intention | None] = {}
        self.by_name: dict[str, _About] = {}
        self.declared: dict[str, _DeclaredFor] = {}
        self.layers: dict[tuple[_About, _DeclaredFor, str, tuple[int, ...], Parts], Layer] = {}
        self.by_key: dict[tuple[str, str, tuple[int, ...], Parts], Layer] = {}

    @property
    def tells_experts_apart(self) -> bool:
        """Whether the experts of a layer may differ in more than their tensors."""
        return self.intends_experts or self.names_experts

    def layer(self, module: str, weight: Form, parts: Parts) -> Layer:
        """The layer of a weight and its parts; the same object for those that are alike."""
        key = module
        if ".experts." in module:
            head, _, tail = module.partition(".experts.")
            number, _, leaf = tail.partition(".")
            key = f"{head}.experts.*.{leaf}" if number.isdigit() else module
        if self.tells_experts_apart:
            return self._look_up(
                module if self.intends_experts else key, module if self.names_experts else key, weight, parts
            )
        known = (key, *weight, parts)
        layer = self.by_key.get(known)
        if layer is None:
            layer = self.by_key[known] = self._look_up(key, key, weight, parts)
        return layer

    def _look_up(self, of_patterns: str, of_declaration: str, weight: Form, parts: Parts) -> Layer:
        """The layer of a weight by the names that the recipe's patterns and the declaration have for its module."""
        about = self.by_name.get(of_patterns) or self._about(of_patterns)
        declared = self.declared.get(of_declaration) or self._declared_for(of_declaration)
        known = (about, declared, *weight, parts)
        layer = self.layers.get(known)
        if layer is None:
            layer = self.layers[known] = self._layer(about, declared, weight, parts)
        return layer

    def _about(self, name: str) -> _About:
        is_linear = NOT_LINEAR.search(name) is None
        intended = self._intended(name)
        number = NUMBER.search(name)
        family = family_of(name)
        if self.layer_count and family not in ("vision", "lm_head") and number and int(number[0]) >= self.layer_count:
            is_of_text = re.search(r"layers[.]\d", name) is not None and _OTHER_STACK.search(name) is None
            family = "MTP" if is_of_text else family
        self.by_name[name] = _About(is_linear, intended, family)
        return self.by_name[name]

    def _intended(self, name: str) -> bool | Intention | None:
        if self.patterns is None:
            return None
        kind = name if self.tells_layers_apart else NUMBER.sub("*", name)
        if kind not in self.intended:
            self.intended[kind] = self.patterns.intention(name)
        return self.intended[kind]

    def _declared_for(self, name: str) -> _DeclaredFor:
        found = _DeclaredFor()
        if self._is_excluded(name):
            found = _DeclaredFor(is_excluded=True)
        elif self.declaration is not None:
            algorithm, is_excluded = self.declaration.algorithm, False
            if self.excluded is None:
                algorithm, is_excluded = self.declaration.of(name)
            is_plain = algorithm in FULL_PRECISION
            found = _DeclaredFor(None if is_plain else algorithm, self.declaration.group_of(name), is_excluded)
        self.declared[name] = found
        return found

    def _is_excluded(self, name: str) -> bool:
        if self.excluded is None:
            return False
        exact, globs = self.excluded
        upper = name
        while upper:
            if upper in exact:
                return True
            upper = upper.rpartition(".")[0]
        return globs is not None and globs.match(name) is not None

    def _layer(self, about: _About, declared: _DeclaredFor, weight: Form, parts: Parts) -> Layer:
        is_linear, intended, family = about
        algorithm, group, is_excluded = declared
        parts = tuple(sorted(parts))
        is_plain = weight[0] in FULL_PRECISION
        if family == "MTP" and is_plain and not self.intends_mtp:
            # transformers loads no layer for multi-token prediction, so that ModelOpt leaves it as it is
            intended = False
        held, problem = algorithm_of(weight, parts), None
        stray = ", ".join(name for name, _ in parts if name != "pre_quant_scale")
        if is_plain and stray:
            declared_excluded = "are declared excluded, " if is_excluded else ""
            problem = f"{declared_excluded}hold {weight[0]} yet have {stray}"
        elif is_plain:
            if algorithm is not None and is_linear and not self.follows_tensors:
                problem = f"are declared {algorithm} yet hold {weight[0]}"
        elif algorithm is None:
            problem = f"are {'declared excluded' if is_excluded else 'not declared'} yet quantized ({held})"
        elif algorithm in FORMATS:
            problem = problem_of(algorithm, group, weight, parts)
        precision = algorithm if problem is None and algorithm in FORMATS and not is_plain else held
        form = FORMATS.get(precision)
        shape = logical_shapes(precision, weight[1])[0]
        size = _form_bytes(weight) + sum(_form_bytes(part) for _, part in parts)
        expected = None
        if is_linear and isinstance(intended, Intention) and intended.algorithm is not None:
            expected = bytes_of(intended.algorithm, intended.group, shape)
        elif form is not None and not is_plain and intended is not False:
            expected = bytes_of(
                precision, group, shape, next((of[0] for name, of in parts if name == "weight_scale"), None)
            )
        if expected is not None and form is not None:
            expected += sum(_form_bytes(part) for name, part in parts if name in form.optional or name in form.tables)
        inputs = shape[-1] if len(shape) == 2 else shape[1] if len(shape) == 3 else 0
        elements = math.prod(shape)
        values = group or form.group if form is not None and form.layout == "group" else 0
        return Layer(
            precision,
            algorithm,
            is_excluded,
            is_linear,
            intended,
            problem,
            family,
            elements,
            size,
            expected,
            inputs,
            values,
            next((name for name, _ in parts if name in ("weight_scale", "weight_scale_inv")), ""),
        )


def _form_bytes(form: Form) -> int:
    return math.prod(form[1]) * BITS[form[0]] // 8


def read_layers(
    names: SortedTensors,
    declaration: Declaration | None,
    patterns: Patterns | None,
    layer_count: int | None = None,
) -> tuple[Layers, list[str]]:
    """Every weight matrix as a :class:`Layer`, and the modules whose scales belong to no weight."""
    reader = _Reader(declaration, patterns, layer_count)
    held = names.tensors
    by_module: dict[Kind, list[_Parts]] = {}
    for part in sorted(names.parts, key=lambda part: part.part):
        by_module.setdefault(part.module, []).append(part)
    forms = [form[:2] for form in held.forms.list]
    found: dict[int, int] = {}
    distinct: list[Layer] = []
    which = numpy.zeros(len(held), numpy.int64)
    is_owned = numpy.zeros(len(held) + 1, bool)  # the last one is that of parts that are not there
    for one in names.weights:
        keys, kinds = held.key[one.rows], by_module.get(one.module, ())
        cells = keys if reader.tells_experts_apart else keys & one.module.same_layer
        parts = [held.find(held.kinds.list[part.kind], keys) for part in kinds]
        for rows in parts:
            is_owned[rows] = True
        columns = [cells, held.form[one.rows], *(numpy.where(rows < 0, -1, held.form[rows]) for rows in parts)]
        is_first = numpy.zeros(len(keys), bool)
        is_first[:1] = True
        for column in columns:
            is_first[1:] |= column[1:] != column[:-1]
        firsts = numpy.flatnonzero(is_first)
        numbers = []
        for module, row, *of_parts in zip(
            one.module.names(keys[firsts]), *(column[firsts].tolist() for column in columns[1:]), strict=True
        ):
            there = tuple((part.part, forms[form]) for part, form in zip(kinds, of_parts, strict=True) if form >= 0)
            layer = reader.layer(module, forms[row], there)
            number = found.setdefault(id(layer), len(distinct))
            if number == len(distinct):
                distinct.append(layer)
            numbers.append(number)
        which[one.rows] = numpy.repeat(numbers, numpy.diff(numpy.append(firsts, len(keys))))
    layers = Layers(held, names.rows, which[names.rows], distinct)
    _check_smoothing(layers, held)
    orphans: dict[str, None] = {}
    for part in names.parts:
        rows = held.rows_of(part.kind)
        lost = ~is_owned[rows]
        if lost.any():
            orphans |= dict.fromkeys(part.module.names(held.keys_of(part.kind)[lost]))
    return layers, list(orphans)


def mark_kept(layers: Layers, kept: Mapping[str, str], is_taken: bool) -> None:
    """Mark the layers that hold the source's own quantized weights.

    Args:
        layers: of the checkpoint, changed in place.
        kept: the weights' names, and how they are stored.
        is_taken: whether the engine takes them; else it is a problem of those that are not declared in that format.
    """
    marked: dict[tuple[int, str], Layer] = {}
    for name, storage in kept.items():
        module = name.removesuffix(".weight")
        layer = layers.get(module)
        if layer is None or not (is_taken or layer.problem or layer.is_unwanted):
            continue
        key = id(layer), storage
        if key not in marked:
            problem = f"hold the source's own {storage}, which the engine would load as plain weights; "
            problem += "dequantize them to BF16"
            held = layer._replace(precision=f"{storage}{KEPT}", expected=None)
            marked[key] = held._replace(problem=None if is_taken else problem)
        layers[module] = marked[key]


def _check_smoothing(layers: Layers, tensors: Mapping[str, Tensor]) -> None:
    """A smoothing vector is folded into the norm of all modules of a kind, or of none: mark those that lack theirs."""
    smoothed = rows_named(tensors, lambda name: name.endswith(".pre_quant_scale"))
    if not smoothed:
        return
    kinds = {NUMBER.sub("*", name.removesuffix(".pre_quant_scale")) for name in smoothed}
    for module, layer in layers.items():
        form = FORMATS.get(layer.precision)
        if form is None or "pre_quant_scale" not in form.optional or layer.problem is not None:
            continue
        if f"{module}.pre_quant_scale" not in tensors and NUMBER.sub("*", module) in kinds:
            reason = f"hold {layer.precision} without the pre_quant_scale that others of their kind have"
            layers[module] = layer._replace(problem=reason)


def kv_problems_of(tensors: Mapping[str, Tensor], declaration: Declaration | None) -> dict[str, list[str]]:
    """What is wrong with the scales of the KV cache: by reason, the tensors' names."""
    found = rows_named(tensors, lambda name: name.endswith((".k_scale", ".v_scale")))
    if not found:
        return {}
    if declaration is None or not declaration.kv_cache:
        return {"are scales of a KV cache that is not declared": found}
    wrong = [name for name in found if tensors[name].elements != 1]
    kinds = {NUMBER.sub("*", name) for name in found}
    held = set(found)
    missing = []
    for name in rows_named(tensors, lambda name: name.endswith(("k_proj.weight", "v_proj.weight"))):
        module = name.removesuffix(".weight")
        scale = f"{module}.{module.rpartition('.')[2][0]}_scale"
        if NUMBER.sub("*", scale) in kinds and scale not in held:
            missing.append(scale)
    for end, other in (("k_proj.k_scale", "v_proj.v_scale"), ("v_proj.v_scale", "k_proj.k_scale")):
        partners = [name.removesuffix(end) + other for name in found if name.endswith(end)]
        missing += [name for name in partners if name not in held and f"{name[:-8]}.weight" in tensors]
    missing = sorted(set(missing))
    biases = set(rows_named(tensors, lambda name: name.endswith((".k_bias", ".v_bias"))))
    if biases:
        wanted = (f"{name.removesuffix('_scale')}_bias" for name in found)
        missing += [name for name in wanted if name not in biases]
    problems = {
        "are KV-cache scales with more than one value": wrong,
        "are missing of the KV cache's scales and biases": missing,
    }
    return {reason: names for reason, names in problems.items() if names}
