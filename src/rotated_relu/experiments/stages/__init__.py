"""What a verb does, as a function on a run directory that a script can call as well; results are returned as data."""
