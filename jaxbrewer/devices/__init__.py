"""Where arrays live: mesh, rules, processes, and what a step needs of each device."""
