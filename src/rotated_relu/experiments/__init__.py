"""Whole experiments over run directories: what a verb does, callable from a script as well."""
