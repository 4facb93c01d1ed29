"""One architecture per file: ``build(width, *, input_shape, num_classes, **options)``."""
