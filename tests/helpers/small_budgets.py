"""Options of bounds that search: a few steps, where a test is not about how far they come."""

SMALL = {
    "exact_enumeration": {"candidates": 8},
    "lower_ascent": {"restarts": 1, "steps": 3, "populations": 2, "rounds": 3},
    "lower_attack": {"steps": 2, "num_points": 2},
    "lower_convex_combinations": {"num_pairs": 2},
    "lower_gaussian": {"num_points": 8},
    "lower_search": {"populations": 2, "rounds": 1},
    "upper_local": {"num_points": 1, "tolerance": 0.1},
}
