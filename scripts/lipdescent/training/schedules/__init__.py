"""Learning-rate schedules, one file each: factor of the base rate at each update.

``factors(update, *, updates_per_epoch, total_updates, **options)`` takes ``update`` (int64 array, 0
for the first) and returns the float64 factors.
"""
