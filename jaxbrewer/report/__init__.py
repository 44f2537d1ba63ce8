"""One self-contained HTML page about runs; reads files only and needs no JAX."""
