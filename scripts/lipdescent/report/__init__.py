"""A study's start page: ``page`` puts answers, figures and the run's ``header`` together."""
