"""Where the output of a submodule is: its path, and which element of what it returns."""

import re

from ..errors import UsageError

_ADDRESS = re.compile(r"(?P<path>[^:\[\]]+)(?P<steps>(?::[^:\[\]]+|\[-?\d+\])*)")
_STEP = re.compile(r":(?P<entry>[^:\[\]]+)|\[(?P<index>-?\d+)\]")

Steps = tuple[str | int, ...]


def split_module_path(text: str) -> tuple[str, Steps]:
    """The path of a module, and the steps to an element of its output.

    Args:
        text: Names joined by dots, then any number of ``:entry`` (a name in a dict or dataclass, a
            number in a tuple) and ``[index]`` (into the first axis of an array: the layers that a
            scan stacks).

    Raises:
        UsageError: It has another form.

    Examples:
        >>> split_module_path("decoder.layers[3]:hidden")
        ('decoder.layers', (3, 'hidden'))
        >>> split_module_path("encoder.*.attention")
        ('encoder.*.attention', ())
        >>> split_module_path("layers[last]")
        Traceback (most recent call last):
        ...
        jaxbrewer.errors.UsageError: 'layers[last]' is no path of a module: names joined by dots...
    """
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text!r} is no path of a module: names joined by dots, then ':entry' or '[index]' to "
            "choose an element of what the module returns."
        )
    steps = tuple(
        step["entry"] if step["index"] is None else int(step["index"])
        for step in _STEP.finditer(match["steps"])
    )
    return match["path"], steps
