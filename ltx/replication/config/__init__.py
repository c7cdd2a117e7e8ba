"""`litestream.yml` as it is: what to replicate where, and how.

`values` is what a configuration comes to; `reader` makes it from a file, and loads pydantic and PyYAML for that.
"""
