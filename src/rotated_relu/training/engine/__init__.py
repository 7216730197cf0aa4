"""The resumable training loop: every draw is a function of seed, epoch and step."""
