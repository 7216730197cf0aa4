"""Docstrings are written with Sphinx's roles, which editors know; the pages are Markdown."""

import re

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`~?([^`]+)`")
MATH = re.compile(r":math:`([^`]+)`|^\.\. math:: *(.+)$", flags=re.MULTILINE)
# What the formulas of the docstrings are made of.
PLAIN = {
    r"\,": " ",
    r"\ ": " ",
    r"\cdot": "·",
    r"\lVert": "‖",
    r"\max": "max",
    r"\partial": "∂",
    r"\rVert": "‖",
    r"\to": "→",
    r"\|": "‖",
}


def plain_formula(found: re.Match[str]) -> str:
    """A short formula as code; there is no typesetting without a script from elsewhere."""
    text = re.sub(r"\\mathrm\{(\w+)\}", r"\1", found.group(1) or found.group(2))
    for symbol, character in PLAIN.items():
        text = text.replace(symbol, character)
    return f"`{' '.join(text.split())}`"


class Roles(griffe.Extension):
    """A role with the target ``~package.name`` becomes the word ``name``; ``Example::`` loses a colon."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            text = ROLE.sub(lambda found: f"`{found.group(1).rsplit('.', 1)[-1]}`", obj.docstring.value)
            text = MATH.sub(plain_formula, text)
            obj.docstring.value = re.sub(r"::$", ":", text, flags=re.MULTILINE)
