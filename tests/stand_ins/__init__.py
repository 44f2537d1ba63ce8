"""Small stand-ins for libraries that the tests do not install, with the same calling conventions.

Their folder is put on the path of a program that runs the recipes of ``docs/models.md``.
"""
