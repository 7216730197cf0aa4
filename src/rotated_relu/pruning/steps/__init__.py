"""Channels that go in the steps in which an engine is paid, or in multiples of a number."""
