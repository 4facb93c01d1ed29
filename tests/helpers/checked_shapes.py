"""beartype as jaxtyping's import hook calls it: an int is a float, as in PEP 484."""

from beartype import BeartypeConf, beartype

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
