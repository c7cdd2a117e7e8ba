"""A package with a mistake of its own: it imports what it does not ship."""

import ltx_sample_parts_that_are_not_there  # type: ignore[import-not-found]  # noqa: F401
