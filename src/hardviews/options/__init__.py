"""Every setting of every verb, as typed dataclasses without torch, so that ``--help`` is quick."""
