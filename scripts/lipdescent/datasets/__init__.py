"""One dataset per file: ``load(**options) -> Dataset``."""
