"""Optimizers that hold trees of the student's parameters: masks, labels, a State of NNX.

An optax transformation sees parameters in the form in which its masks and labels were made: the
student's nested dict, the ``nnx.State`` of an NNX module, or that State as a dict with int keys.
A projection has none of the student's names. Where masks or labels need them, it takes the place
of one of the student's parameters.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ..forward.model import Model, PyTree
from ..forward.tree_keys import Names, named_leaves, with_keys_of, with_string_keys

_MOVING_STEPS = 3
"""Steps in which an optimizer must move a parameter for a projection to take its place; the first
step of a warmup moves nothing."""


@dataclasses.dataclass(frozen=True)
class TreeForm:
    """A form of a tree of the student's parameters.

    Attributes:
        structure: Structure of a tree in this form.
        names: By leaf of the structure, the path of the parameter in the student's nested dict.
        ranks: By leaf, the number of axes of the parameter.
        places: By path of a projection's array, the path of the parameter whose place it takes;
            ``None`` for the student's own parameters.
    """

    structure: Any
    names: tuple[Names, ...]
    ranks: tuple[int, ...]
    places: Mapping[Names, Names] | None = None

    def convert(self, tree: PyTree) -> PyTree:
        """``tree``, a nested dict, in this form; places that are not taken hold ``None``."""
        arrays = dict(named_leaves(tree))
        if self.places is None:
            return self.structure.unflatten([arrays[names] for names in self.names])
        taken: dict[Names, dict[str, Any]] = {}
        for own, place in self.places.items():
            taken.setdefault(place, {})[own[-1]] = arrays[own]
        return self.structure.unflatten([taken.get(names) for names in self.names])

    def restore(self, tree: PyTree, like: PyTree) -> PyTree:
        """The inverse of :meth:`convert`: a nested dict with the structure of ``like``."""
        leaves = dict(zip(self.names, self.structure.flatten_up_to(tree), strict=True))
        own = [names for names, _ in named_leaves(like)]
        if self.places is not None:
            leaves = {names: leaves[place][names[-1]] for names, place in self.places.items()}
        return jax.tree.unflatten(jax.tree.structure(like), [leaves[names] for names in own])


def for_student(
    optimizer: optax.GradientTransformationExtraArgs, student: Model
) -> tuple[optax.GradientTransformationExtraArgs, TreeForm]:
    """``optimizer`` for the student's nested dict, and the form of the trees that it holds."""
    forms = list(_forms_of(student))
    for form in forms:
        fitting = optimizer if form is forms[0] else _in_form(optimizer, form)
        if _takes(fitting, student.params):
            return fitting, form
    return optimizer, forms[0]


def for_projection(
    optimizer: optax.GradientTransformationExtraArgs, form: TreeForm, params: PyTree
) -> optax.GradientTransformationExtraArgs:
    """``optimizer`` for the parameters of a projection, or their shapes.

    If it holds trees of the student's parameters, it treats the projection's kernel as the first
    matrix of the student that it moves, and the bias as the first such vector, if there is one.
    """
    if _takes(optimizer, params):
        return optimizer
    places = {
        names: _place(optimizer, form, 1 if names[-1] == "bias" else 2)
        for names, _ in named_leaves(params)
    }
    return _in_form(optimizer, dataclasses.replace(form, places=places))


def convert_extra_args(
    extra: Mapping[str, Any],
    convert: Callable[[PyTree], PyTree],
    restore: Callable[[PyTree], PyTree],
) -> dict[str, Any]:
    """The keyword arguments of ``update`` for an optimizer that sees converted trees."""
    converted = dict(extra)
    if "grad" in extra:
        converted["grad"] = convert(extra["grad"])
    if "value_fn" in extra:
        converted["value_fn"] = lambda params: extra["value_fn"](restore(params))
    return converted


def _in_form(
    optimizer: optax.GradientTransformationExtraArgs, form: TreeForm
) -> optax.GradientTransformationExtraArgs:
    """``optimizer`` for nested dicts, which it sees in ``form``.

    Its state holds nested dicts with string keys as well, so that paths in checkpoints and
    sharding rules do not depend on the form.
    """

    def init(params: PyTree) -> PyTree:
        return with_string_keys(optimizer.init(form.convert(params)))

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        template = jax.eval_shape(optimizer.init, form.convert(params))
        moved, state = optimizer.update(
            form.convert(updates),
            with_keys_of(template, state),
            form.convert(params),
            **convert_extra_args(extra, form.convert, lambda tree: form.restore(tree, params)),
        )
        return form.restore(moved, updates), with_string_keys(state)

    return optax.GradientTransformationExtraArgs(init, update)


def _forms_of(student: Model) -> Iterator[TreeForm]:
    """The forms in which a user may have made a tree of the student's parameters."""
    ranks = {names: jnp.ndim(leaf) for names, leaf in named_leaves(student.params)}

    def form_of(tree: PyTree) -> TreeForm:
        names = tuple(names for names, _ in named_leaves(tree))
        return TreeForm(jax.tree.structure(tree), names, tuple(ranks[name] for name in names))

    yield form_of(student.params)
    module = student.export(student.params, student.state)
    if isinstance(module, nnx.Module):
        own = nnx.state(module, lambda path, _: tuple(map(str, path)) in ranks)
        yield form_of(own)
        yield form_of(nnx.to_pure_dict(own))


def _takes(optimizer: optax.GradientTransformationExtraArgs, params: PyTree) -> bool:
    """Whether an optimizer can be initialized with ``params`` and update them."""

    def step(params: PyTree) -> PyTree:
        extra = {"value": jnp.float32(0), "grad": params, "value_fn": lambda _: jnp.float32(0)}
        return optimizer.update(params, optimizer.init(params), params, **extra)

    try:
        jax.eval_shape(step, params)
    except Exception:  # whatever a mask or a label function raises
        return False
    return True


def _place(optimizer: optax.GradientTransformationExtraArgs, form: TreeForm, rank: int) -> Names:
    """The first parameter that the optimizer moves, if possible one of this rank."""
    own: Names = ("array",)
    pairs = list(zip(form.names, form.ranks, strict=True))
    candidates = sorted(pairs, key=lambda pair: pair[1] != rank)  # stable
    for place, _ in candidates:
        fitting = _in_form(optimizer, dataclasses.replace(form, places={own: place}))
        params = {own[0]: jnp.ones((1,) * rank)}
        try:
            state = fitting.init(params)
            for _ in range(_MOVING_STEPS):
                updates, state = fitting.update(params, state, params)
                if jnp.any(updates[own[0]] != 0):
                    return place
        except Exception:  # the step reports it
            break
    return candidates[0][0]
