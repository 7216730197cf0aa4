"""Several stages in one resumable command."""
