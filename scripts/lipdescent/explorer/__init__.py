"""One page to explore a table with: ``contents`` packs the data, ``page`` writes the file."""
