"""Docstrings are written with Sphinx's roles, which editors know; the pages are Markdown."""

import re

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`~?([^`]+)`")


class Roles(griffe.Extension):
    """A role with the target ``~package.name`` becomes the word ``name``; ``Example::`` loses a colon."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            text = ROLE.sub(lambda found: f"`{found.group(1).rsplit('.', 1)[-1]}`", obj.docstring.value)
            obj.docstring.value = re.sub(r"::$", ":", text, flags=re.MULTILINE)
