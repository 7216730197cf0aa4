"""A file that the system will not delete, whoever asks."""

import errno
from pathlib import Path


def refuse_deletion(monkeypatch, name):
    """Every file of that name, wherever it lies."""
    unlink = Path.unlink

    def refuse(path, *arguments, **options):
        if path.name == name:
            raise PermissionError(errno.EPERM, "Operation not permitted", str(path))
        unlink(path, *arguments, **options)

    monkeypatch.setattr(Path, "unlink", refuse)
