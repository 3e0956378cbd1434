"""Where examples come from: one module a source, each with the same interface."""
