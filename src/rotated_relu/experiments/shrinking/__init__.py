"""A trained network in, a smaller one out: one budget (:mod:`.pipeline`), or several on one page (:mod:`.frontier`)."""
