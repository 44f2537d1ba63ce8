"""A forward pass as a pure function: models of any library, adaptors, precision, freezing."""
