"""Placement of arrays on devices: mesh, rules, processes, and estimates per device."""
