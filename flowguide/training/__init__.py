"""Training of the bundled model, painter, and of nothing else at run time."""
