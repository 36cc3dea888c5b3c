"""A package of someone's own, with a method that hardviews does not know."""
