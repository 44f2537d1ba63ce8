"""Turns text files into batches of token arrays; needs the extra ``jaxbrewer[text]``.

The public names are listed in ``__init__.pyi`` and imported when they are first used, so that the
command line can answer before NumPy is loaded.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
