"""The rotated ReLU and its rivals, trained and pruned alike, in one run."""
