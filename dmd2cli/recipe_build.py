"""From recipe to objects: names are checked before anything is imported, options before anything is built."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from dmd2cli import registry
from dmd2cli.errors import UserError, suggest
from dmd2cli.recipe_errors import explain
from dmd2cli.recipe_parts import AnyRecipe, Recipe, Term, Use
from dmd2cli.recipe_stages import stage_recipes
from dmd2cli.recipe_yaml import Located, place

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


def check(recipe: AnyRecipe) -> None:
    """Raise UserError for the first plugin name in the recipe that is not installed; imports no plugin."""
    for kind, key, name in _references(recipe):
        known = registry.names(kind)
        if name not in known:
            what = f"unknown {registry.KINDS[kind]}{'' if kind == 'losses' else f' {name!r}'}"
            raise UserError(f"{place(recipe.places, key)}{key}: {what}{suggest(name, known)}")


def build(kind: str, use: Use | Term, key: str, /, **given: Any) -> Any:
    """Call the factory that `use` names with its options and what the engine gives.

    key: where `use` stands in its recipe, "sampler" or "losses.denoising". Raises UserError for an option
    that the factory's signature does not know, misses or types differently, and passes on the factory's own
    UserErrors with their place in the recipe before them.
    """
    name = use.use if isinstance(use, Use) else key.rpartition(".")[2]
    factory = registry.load(kind, name)
    options = _checked(factory, use, key, given)
    try:
        return factory(**given, **options)
    except UserError as err:
        raise UserError(f"{place(use.places, key)}{key}: {err}") from err
    except ModuleNotFoundError as err:
        raise registry.import_problem(kind, name, err) from err


def check_options(kind: str, use: Use, key: str, *given: str, beside: Collection[str] = ()) -> None:
    """Raise UserError if build() would for these options, without building anything. given: what the engine gives.

    beside: options that are not the factory's, and not checked.
    """
    _checked(registry.load(kind, use.use), use, key, given, beside)


def _references(recipe: AnyRecipe) -> Iterator[tuple[str, str, str]]:
    """(kind, key, name) of every plugin that the recipe names, and then of what each of its stages makes of it."""
    yield from _named(recipe)
    for i, stage in enumerate(stage_recipes(recipe) if isinstance(recipe, Recipe) else ()):
        yield from ((kind, f"stages.{i}.{key}", name) for kind, key, name in _named(stage))


def _named(recipe: AnyRecipe) -> Iterator[tuple[str, str, str]]:
    """The same without the stages."""
    if isinstance(recipe, Recipe):
        yield "teachers", "teacher", recipe.teacher.use
        yield from (("losses", f"losses.{name}", name) for name in recipe.losses)
        yield "samplers", "sampler", recipe.sampler.use
        yield from (("metrics", f"metrics.{i}", metric.use) for i, metric in enumerate(recipe.metrics))
        if recipe.health.validation is not None:
            yield "metrics", "health.validation", recipe.health.validation.use
    else:
        yield "pretraining", "task", recipe.task.use
    for key in ("prompts", "real", "pairs"):
        use: Use | None = getattr(recipe.data, key)
        if use is not None:
            yield "datasets", f"data.{key}", use.use


def _checked(
    factory: Callable[..., Any], use: Use | Term, key: str, given: Collection[str], beside: Collection[str] = ()
) -> dict[str, Any]:
    """The options of `use`, each as the type its parameter is annotated with."""
    parameters = [p for p in inspect.signature(factory).parameters.values() if p.name not in given]
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    options = {k: v for k, v in use.options.items() if k in named or k not in beside}
    wanted = {n: p for n, p in named.items() if n in options or p.default is p.empty}
    free = any(p.kind is p.VAR_KEYWORD for p in parameters)
    unchecked = {k: v for k, v in options.items() if free and k not in named}
    text = json.dumps({k: v for k, v in options.items() if k not in unchecked})
    try:
        values = _options_model(factory, wanted).model_validate_json(text)
    except ValidationError as err:
        raise explain(err, Located(use.options, use.places), lambda loc: named, prefix=key) from err
    return unchecked | {name: getattr(values, f"option_{name}") for name in wanted}


def _options_model(factory: Callable[..., Any], parameters: dict[str, inspect.Parameter]) -> type[BaseModel]:
    """A model with one required field per parameter; aliases keep clear of the names that pydantic owns."""
    fields: dict[str, Any] = {
        f"option_{name}": (Any if p.annotation is p.empty else p.annotation, Field(alias=name))
        for name, p in parameters.items()
    }
    return create_model("Options", __config__=_STRICT, __module__=factory.__module__, **fields)
