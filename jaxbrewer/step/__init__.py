"""One optimizer step as a pure function: state, optimizer, teachers, tasks."""
