"""A study's configuration, and what follows of it before any job.

``config`` checks it (``schema``, then ``checks``), ``runs`` lists its runs, ``recipes`` how each
file is made, ``freshness`` which are not what they should be.
"""
