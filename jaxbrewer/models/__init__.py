"""Encoders and decoders in Flax NNX, one module per family; reads Hugging Face directories.

The public names are listed in ``__init__.pyi`` and imported when they are first used, so that the
command line can read ``config.json`` and shapes of weights before JAX is loaded.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
