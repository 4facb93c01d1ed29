"""One kind of measurement per file: ``take(subject, options)``, an iterator of measurements.

``subject`` is a :class:`lipdescent.measuring.subject.Subject`. A bound is the kind ``bound``,
whatever its name, so that adding one means adding a file in bounds/ alone.
"""
