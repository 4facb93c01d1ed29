"""beartype as jaxtyping's import hook calls it: an int is a float, as in PEP 484."""

import random

# Which entry of a list it looks at is drawn: not from the global generator, which tests watch.
drawn, random.getrandbits = random.getrandbits, random.Random(0).getrandbits

from beartype import BeartypeConf, beartype  # noqa: E402

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
checker(lambda entries: None)  # what it imports at its first use, now
random.getrandbits = drawn
