"""Caches of a teacher that runs once: its outputs in memory or on disk, by example."""

from .build import build_cache as build_cache
from .build import teacher_settings as teacher_settings
from .disk import TeacherCache as TeacherCache
from .examples import examples_of as examples_of
from .lookup import with_outputs as with_outputs
from .manifest import Manifest as Manifest
from .manifest import Storage as Storage
from .memory import CachedLoader as CachedLoader
from .memory import cache_by_example as cache_by_example
