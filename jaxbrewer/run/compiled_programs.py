"""Compiled programs on disk, for later processes. Imports no JAX."""

import contextlib
import os
import sys
from pathlib import Path

from ..errors import UsageError, reason_of

MOST_BYTES = 4_000_000_000
"""Size of the user's cache beyond which the programs not used for longest are removed."""

_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def keep_compiled_programs(where: bool | str | Path | None) -> None:
    """Makes JAX, in this process, keep compiled programs on disk and read them from there.

    Args:
        where: A directory. ``True`` is ``jaxbrewer/compiled`` in the user's cache directory
            (``$XDG_CACHE_HOME``, or ``~/.cache``) unless JAX has a directory already, and none if
            it cannot be written. ``False`` and ``None`` change nothing.

    Raises:
        UsageError: A directory that was named cannot be written.
    """
    if where is None or where is False:
        return
    if where is True:
        if _directory_of_jax() is not None:
            return
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        directory = Path(base) / "jaxbrewer" / "compiled"
    else:
        directory = Path(where)
    reason = _reason_against(directory)
    if reason is None:
        if where is True:
            _shrink(directory, MOST_BYTES)
        _set_directory(directory)
    elif where is not True:
        raise UsageError(f"compilation_cache {str(directory)!r} cannot be written: {reason}.")


def _directory_of_jax() -> str | None:
    if "jax" in sys.modules:
        import jax

        directory: str | None = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
        return directory
    return os.environ.get("JAX_COMPILATION_CACHE_DIR")


def _reason_against(directory: Path) -> str | None:
    """Makes a directory; why it cannot be used, or ``None``."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        return reason_of(error)
    return None if os.access(directory, os.W_OK | os.X_OK) else "no permission to write"


def _set_directory(directory: Path) -> None:
    if "jax" not in sys.modules:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name.upper(), str(value))
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    if _directory_of_jax() == str(directory):
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    for name, value in _SETTINGS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX decides at its first compilation whether it has a cache


def _shrink(directory: Path, most_bytes: int) -> None:
    """Removes the files that were not used for longest until the others have a size at most."""
    found = []
    for path in directory.iterdir():
        with contextlib.suppress(OSError):  # another process removes it
            status = path.stat()
            found.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    size = sum(size for _, size, _ in found)
    for _, own, path in sorted(found):
        if size <= most_bytes:
            return
        with contextlib.suppress(OSError):
            path.unlink()
        size -= own
