"""Decides whether a teacher's outputs come from a cache, on disk or in memory."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax

from ..cache import (
    CachedLoader,
    Manifest,
    TeacherCache,
    build_cache,
    cache_by_example,
    examples_of,
    teacher_settings,
    with_outputs,
)
from ..checksums import fingerprint
from ..configs import DistillationConfig, TrainingConfig
from ..data.batches import as_batch
from ..data.groups import set_epoch
from ..data.loader_checks import length_of
from ..errors import UsageError
from ..forward.adaptors import Outputs
from ..forward.model import Model, PyTree
from ..forward.precision import policy_of
from ..run.progress import PassProgress, announce
from ..step.teachers import Adaptors, make_teacher_step, only_needed, with_whole_logits

Teacher: TypeAlias = Model | tuple[Model, ...] | None
Postprocessor: TypeAlias = Callable[[Any], Any] | None


@dataclasses.dataclass(frozen=True)
class CachePolicy:
    """Where the outputs of a distiller's teachers come from, and who builds the cache.

    Attributes:
        train_config: Its ``cache_dir`` names the directories.
        distill_config: Its ``is_caching_logits`` builds a cache; its matches need layers.
        teacher: The teacher or teachers; ``None`` if they are not in memory.
        adaptor: Their adaptor or adaptors.
    """

    train_config: TrainingConfig
    distill_config: DistillationConfig
    teacher: Teacher
    adaptor: Adaptors

    def check(self) -> None:
        """Checks the directories and the config, before any data are read.

        Raises:
            UsageError: A cache cannot be built without a teacher, or is of another teacher or
                lacks layers that the config needs.
        """
        directories = self._directories()
        if self.distill_config.is_caching_logits and self.teacher is None and not directories:
            raise UsageError("is_caching_logits needs a teacher.")
        if self.is_on and self.distill_config.custom_matches:
            raise UsageError(
                "custom_matches need the teacher itself: a cache keeps logits and the layers of "
                "intermediate_matches, not what its modules return."
            )
        for index in directories:
            self._open(index)

    @property
    def is_on(self) -> bool:
        """Whether the teacher's outputs come from a cache."""
        return bool(self._directories()) or self.distill_config.is_caching_logits

    @property
    def covers_all(self) -> bool:
        """Whether the cache holds every teacher's outputs."""
        directories = self.train_config.cache_dir
        return self.is_on and not (isinstance(directories, tuple) and None in directories)

    def teacher_fingerprint(self) -> str | None:
        """The digest of a teacher that is not in memory, from its cache."""
        caches = [self._open(index) for index in self._directories()]
        found = [cache.manifest.fingerprints.get("teacher") for cache in caches if cache]
        return found[0] if len(found) == 1 else None

    def apply(
        self, dataloader: Any, batch_postprocessor: Postprocessor, args: Mapping[str, Any]
    ) -> tuple[Any, Postprocessor]:
        """Returns the loader and postprocessor whose batches bring the teacher's outputs.

        Raises:
            UsageError: As :meth:`check`, or the settings differ.
        """
        if self._directories():
            return self._from_disk(dataloader, batch_postprocessor, args)
        named = getattr(dataloader, "with_example_ids", lambda: dataloader)()
        # Attention is as wide as its batch, so it is cached by batch, not by example.
        is_by_example = all(m.feature == "hidden" for m in self.distill_config.intermediate_matches)
        teacher_step: Callable[[Any], Any] = functools.partial(
            jax.jit(self._make_teacher_step(args)), self._variables
        )
        if self.train_config.progress:
            announce("teacher cache: the teacher runs over the data, into memory")
            teacher_step = _progress_over(dataloader).counting(teacher_step)
        set_epoch(named, 0)
        first = next(iter(named), None)
        if first is None or not is_by_example or examples_of(first).ids is None:
            seed = self.train_config.seed
            return CachedLoader(dataloader, teacher_step, batch_postprocessor, seed=seed), None
        return named, cache_by_example(named, teacher_step, batch_postprocessor)

    def for_check(
        self, dataloader: Any, batch_postprocessor: Postprocessor, args: Mapping[str, Any]
    ) -> tuple[Any, Postprocessor]:
        """As :meth:`apply`, but never runs a teacher."""
        there = [self._open(index) for index in self._directories()]
        if not there or None in there:
            return dataloader, batch_postprocessor
        return self._from_disk(dataloader, batch_postprocessor, args)

    @property
    def _variables(self) -> PyTree:
        if self.teacher is None or isinstance(self.teacher, Model):
            return self.teacher and self.teacher.variables
        return tuple(model.variables for model in self.teacher)

    def _directories(self) -> dict[int | None, str]:
        """The directories by the teacher's index, which is ``None`` for a single teacher."""
        given = self.train_config.cache_dir
        if given is None:
            return {}
        several = not isinstance(self.teacher, Model) and self.teacher is not None
        if isinstance(given, tuple):
            if isinstance(self.teacher, Model) or (several and len(given) != len(self.teacher)):  # type: ignore[arg-type]
                count = 1 if isinstance(self.teacher, Model) else len(self.teacher)  # type: ignore[arg-type]
                raise UsageError(
                    f"TrainingConfig.cache_dir lists {len(given)} directories for {count} "
                    f"teacher{'s' * (count > 1)}."
                )
            if self.teacher is None and None in given:
                raise UsageError("TrainingConfig.cache_dir needs a directory for every teacher.")
            return {index: str(path) for index, path in enumerate(given) if path is not None}
        if several:
            raise UsageError(
                "TrainingConfig.cache_dir must be a list with a directory or None for each teacher."
            )
        return {None: str(given)}

    def _open(
        self, index: int | None, args: Mapping[str, Any] | None = None
    ) -> TeacherCache | None:
        """Opens a teacher's cache; ``None`` if it must be built first."""
        directory, model = self._directories()[index], self._model(index)
        fingerprints, settings = {}, {}
        if model is not None:
            fingerprints = {"teacher": fingerprint(model.variables)}
            settings = teacher_settings(model, policy_of(self.train_config), args or {})
            if args is None:
                del settings["args"]
        if model is not None and self.distill_config.is_caching_logits:
            started = Manifest.find(directory)
            if started is None or not started.complete:
                if started is not None:
                    started.require_built_from(directory, fingerprints, settings)
                return None
        cache = TeacherCache(directory, fingerprints=fingerprints, settings=settings, number=index)
        if self.distill_config.is_resolved:
            cache.require_holds(self.distill_config)
        return cache

    def _model(self, index: int | None) -> Model | None:
        if self.teacher is None or isinstance(self.teacher, Model):
            return self.teacher
        return self.teacher[index or 0]

    def _from_disk(
        self, dataloader: Any, batch_postprocessor: Postprocessor, args: Mapping[str, Any]
    ) -> tuple[Any, Postprocessor]:
        named = getattr(dataloader, "with_example_ids", lambda: dataloader)()
        caches: dict[int | None, TeacherCache] = {}
        for index, directory in self._directories().items():
            cache = self._open(index, args)
            if cache is None:
                adaptors = self.adaptor
                several = isinstance(adaptors, (list, tuple))
                prepare = batch_postprocessor
                if self.train_config.progress:
                    announce(
                        f"teacher cache: the teacher runs once over the data, into {directory}"
                    )
                    prepare = _progress_over(named).counting(prepare or (lambda batch: batch))
                build_cache(
                    directory,
                    self._model(index),
                    adaptors[index or 0] if several else adaptors,  # type: ignore[index,arg-type]
                    named,
                    config=self.distill_config,
                    number=index,
                    precision=policy_of(self.train_config),
                    args=args,
                    batch_postprocessor=prepare,
                )
                cache = self._open(index, args)
                assert cache is not None
            caches[index] = cache
        found: Any = caches[None] if None in caches else self._in_order(caches)

        def with_cached(batch: Any) -> dict[str, Any]:
            batch = batch_postprocessor(batch) if batch_postprocessor else batch
            return with_outputs(as_batch(batch), found)

        by_id = any(cache.manifest.keys == "example_id" for cache in caches.values())
        return (named if by_id else dataloader), with_cached

    def _in_order(self, caches: Mapping[int | None, TeacherCache]) -> tuple[Any, ...]:
        given = self.train_config.cache_dir
        assert isinstance(given, tuple)
        return tuple(caches.get(index) for index in range(len(given)))

    def _make_teacher_step(self, args: Mapping[str, Any]) -> Callable[[PyTree, Any], Any]:
        """A step of all teachers, without the layers that no match needs."""
        assert self.teacher is not None
        config = self.distill_config
        teacher_step = make_teacher_step(
            self.teacher, self.adaptor, precision=policy_of(self.train_config), args=args
        )

        def needed(variables: PyTree, batch: Any) -> Outputs | tuple[Outputs, ...]:
            outputs = teacher_step(variables, batch)
            if isinstance(outputs, Outputs):
                return with_whole_logits(only_needed(outputs, config))
            return tuple(
                with_whole_logits(only_needed(x, config, teacher=i)) for i, x in enumerate(outputs)
            )

        return needed


def _progress_over(dataloader: Any) -> PassProgress:
    return PassProgress("teacher cache", length_of(dataloader))
