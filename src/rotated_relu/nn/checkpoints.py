"""Methods that count their calls by themselves, because ``torch.utils.checkpoint`` runs them once more for gradients.

That run happens in the backward pass, when the owner's ``forward`` is over and nobody counts. A method of the owner
through which a checkpointed call goes can count instead, from 0 each time it is run: it is one *scope* of the owner,
its ``forward`` is the other. A lambda or an inner function cannot.

Requires: sites that their owner dispatches. Ensures: :attr:`Site.scope` of each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import CodeType, FunctionType

from torch import nn

from .call_sites import Site, level
from .gates import Gate
from .recording import Call, Position

CHECKPOINTED = (
    "it is called inside torch.utils.checkpoint, which runs that part of the forward once more on its own, and by no "
    "method of its module that could count its calls: checkpoint a method of the module, or a module of its own, "
    "instead of a lambda or an inner function"
)


class Scopes:
    """The scopes of all owners; sets :attr:`Site.scope`.

    Attributes:
        problems: Sites that no scope can count, with the reason.
    """

    def __init__(self, modules: Mapping[str, nn.Module], sites: Iterable[Site]) -> None:
        self.problems: list[tuple[Site, str]] = []
        self._scopes: dict[str, dict[CodeType, str]] = defaultdict(dict)
        sites = list(sites)
        for site in sites:
            methods = _methods(modules[site.owner])
            for gate in site.gates:
                self._scopes[site.owner].update(_recomputed(gate, methods))
        for site in sites:
            self._place(site)

    def methods(self, owner: str) -> list[str]:
        """Methods of an owner that count their calls."""
        return sorted(set(self._scopes[owner].values()))

    def of(self, owner: str, call: Call) -> str:
        """The scope of a call that an owner makes, or a gate module that it calls."""
        return self._innermost(owner, call.positions[0 if call.run.name == owner else 1])

    def _innermost(self, owner: str, places: Position) -> str:
        scopes = self._scopes[owner]
        return next((scopes[code] for code, _ in places if code in scopes), "")

    def _place(self, site: Site) -> None:
        found = {self._innermost(site.owner, gate.call.positions[level(gate)]) for gate in site.gates}
        again = any(gate.call.inside[level(gate)] is not None for gate in site.gates)
        site.scope = min(found)
        if again and "" in found:
            self.problems.append((site, CHECKPOINTED))
        elif len(found) > 1:
            self.problems.append((site, f"it is called through several methods: {', '.join(sorted(found))}"))


def _recomputed(gate: Gate, methods: Mapping[CodeType, str]) -> dict[CodeType, str]:
    """The outermost method within the innermost checkpoint around a call, if there are any."""
    at = level(gate)
    inside = gate.call.inside[at]
    if inside is None:
        return {}
    places = gate.call.positions[at][:inside]
    return next(({code: methods[code]} for code, _ in reversed(places) if code in methods), {})


def _methods(module: nn.Module) -> dict[CodeType, str]:
    """Methods of a module's class by their code, without those that share it (as decorated ones do)."""
    names: dict[CodeType, list[str]] = defaultdict(list)
    for name in dict.fromkeys(name for cls in type(module).__mro__ for name in vars(cls)):
        value = next(vars(cls)[name] for cls in type(module).__mro__ if name in vars(cls))
        if isinstance(value, FunctionType) and name != "forward" and not name.startswith("__"):
            names[value.__code__].append(name)
    return {code: found[0] for code, found in names.items() if len(found) == 1}
