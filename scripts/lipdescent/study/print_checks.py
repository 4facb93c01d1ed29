"""Can figures be printed as the configuration says: wide enough for their type, in a known font?"""

from typing import Any

from lipdescent.plugins import lookup
from lipdescent.study.schema import ConfigError, mistakes

INCHES_PER_POINT = 0.65  # below, the names of three panels side by side run into each other
ALWAYS_THERE = "DejaVu Sans"  # Matplotlib brings it


def check(config: dict[str, Any]) -> None:
    """The section ``figure``, of a configuration that fits the schema.

    Raises
    ------
    ConfigError
        Naming the key, its value and what is allowed.
    """
    width, size, font = (config["figure"][key] for key in ("width", "font_size", "font"))
    least = INCHES_PER_POINT * size
    if width < least:
        raise ConfigError(
            f"config: figure.width = {width:g}: allowed with figure.font_size = {size:g} is at "
            f"least {least:.3g} (inches)"
        )
    if font == ALWAYS_THERE:
        return
    # Not at the top: it takes a second, which no study with the usual font need wait.
    from matplotlib import font_manager

    known = sorted({entry.name for entry in font_manager.fontManager.ttflist})
    with mistakes():
        lookup.check("font in figure.font", font, known)
