"""Where images come from: folders, tables, tars, other libraries' sets, objects, and streams."""

from hardviews.data.sources.base import ImageSource, fingerprint, passed_over, why_unlabelled
from hardviews.data.sources.dataset import as_source
from hardviews.data.sources.opening import is_named, open_source

__all__ = ["ImageSource", "as_source", "fingerprint", "is_named", "open_source", "passed_over", "why_unlabelled"]
