"""A real model distilled on real text: ``jaxbrewer demo``."""
