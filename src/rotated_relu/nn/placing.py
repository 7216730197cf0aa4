"""Decide where the slopes of each call site go; changes nothing.

Requires: all sites of a network and the recordings they come from. Ensures: a :class:`Plan` in plain data that gives
each site its own slopes, or a :class:`RotationError` that names those that cannot have them.

A gate module that its owner calls once is swapped, where the owner keeps it. All others (functions, a module called
several times) are dispatched: their owner counts its calls of the function, see :mod:`.dispatch`. What else calls that
function below a counting owner is shielded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..core.errors import RotationError
from .activation import Rotated
from .call_sites import Site
from .checkpoints import Scopes
from .dispatch import ACTIVATIONS, Step, Table, counted, is_dispatching
from .gates import called_by_script
from .recording import SCRIPT, Call, Recording, Run

# Fresh modules for torch's own activations that have no arguments.
PLAIN_GATES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "silu": nn.SiLU, "hardswish": nn.Hardswish, "mish": nn.Mish,
    "selu": nn.SELU, "gelu": nn.GELU,
}  # fmt: skip


@dataclass
class Plan:
    """What becomes of a network.

    Attributes:
        swaps: Qualified name of each place that a gate module leaves, to the site whose slopes come there.
        dispatched: Owner to the sites whose calls it dispatches, by the name of the child with their slopes.
        tables: Owner to its tables, see :func:`dispatch`.
        methods: Owner to those of its methods that count calls by themselves.
        shields: Modules whose function calls are hidden from those further out.
        hidden: Rotated modules, present or to come, that hide theirs.
    """

    swaps: dict[str, Site] = field(default_factory=dict)
    dispatched: dict[str, dict[str, Site]] = field(default_factory=dict)
    tables: dict[str, dict[bool, Table]] = field(default_factory=dict)
    methods: dict[str, list[str]] = field(default_factory=dict)
    shields: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)

    @property
    def sites(self) -> list[Site]:
        """All sites that get slopes."""
        dispatched = [site for sites in self.dispatched.values() for site in sites.values()]
        return list(dict.fromkeys([*self.swaps.values(), *dispatched]))


class Placing:
    """Works out a plan, see :func:`place`."""

    def __init__(self, net: nn.Module, recordings: Sequence[Recording], sites: Sequence[Site]) -> None:
        self.net = net
        self.recordings = recordings
        self.sites = sites
        self.modules = dict(net.named_modules(remove_duplicate=False))
        runs = [run for recording in recordings for run in recording.runs]
        self.called = {run.name for run in runs if not run.sliced}
        self.slots = self._find_slots()

    # --- swaps ---------------------------------------------------------------------------------------------------

    def _find_slots(self) -> dict[Site, str]:
        """Where a gate module can be swapped: one place for one site."""
        groups: dict[tuple[str, str], list[Site]] = defaultdict(list)
        for site in self.sites:
            if site.module and not _written_back(site):
                groups[site.owner, site.module].append(site)
        found: dict[Site, str] = {}
        for (owner, module), members in groups.items():
            places = list(self._places(owner, self.modules[module]))
            if all(site.place for site in members):
                found.update({site: site.place for site in members})
            elif len(places) == len(members) == 1:
                found[members[0]] = places[0]
        return self._unshared(self._alone(found))

    def _alone(self, found: dict[Site, str]) -> dict[Site, str]:
        """Without modules that somebody calls through a place of another owner, which would find the slopes there."""
        through = {
            id(self.modules[site.module])
            for site in self.sites
            if site.module and not [*self._places(site.owner, self.modules[site.module])]
        }
        return {site: place for site, place in found.items() if id(self.modules[site.module]) not in through}

    def _places(self, prefix: str, gate: nn.Module) -> Iterable[str]:
        """Names of a gate below its owner, directly or in lists that are never called themselves."""
        for key, child in self.modules[prefix]._modules.items():
            name = f"{prefix}.{key}" if prefix else key
            if child is gate:
                yield name
            elif child is not None and name not in self.called and not self._same_called(child):
                yield from self._places(name, gate)

    def _same_called(self, module: nn.Module) -> bool:
        return any(self.modules[name] is module for name in self.called)

    def _unshared(self, found: dict[Site, str]) -> dict[Site, str]:
        """Without places that several sites would have to share."""
        wanted: dict[tuple[int, str], list[Site]] = defaultdict(list)
        for site, place in found.items():
            parent, _, key = place.rpartition(".")
            wanted[id(self.modules[parent]), key].append(site)
        return {members[0]: found[members[0]] for members in wanted.values() if len(members) == 1}

    # --- names ---------------------------------------------------------------------------------------------------

    def name_sites(self) -> None:
        """Give each site the name that the module with its slopes will have."""
        taken: dict[str, set[str]] = defaultdict(set)
        for site in self.sites:
            if site in self.slots:
                site.name = self.slots[site]
                continue
            base = site.module.rpartition(".")[2] if site.module else site.function
            if not base.isidentifier():
                base = site.function
            if site.function not in ACTIVATIONS and not site.module:
                base = "gate"
            owner = self.modules[site.owner]
            number = 1
            while hasattr(owner, f"{base}_{number}") or f"{base}_{number}" in taken[site.owner]:
                number += 1
            taken[site.owner].add(f"{base}_{number}")
            site.name = f"{site.owner}.{base}_{number}" if site.owner else f"{base}_{number}"

    # --- the plan ------------------------------------------------------------------------------------------------

    def plan(self, wanted: Sequence[Site]) -> Plan:
        """The plan for those sites that are to have slopes."""
        plan = Plan()
        for site in wanted:
            if site in self.slots:
                plan.swaps[self.slots[site]] = site
            else:
                plan.dispatched.setdefault(site.owner, {})[site.name.rpartition(".")[2]] = site
        scopes = Scopes(self.modules, [site for site in wanted if site not in self.slots])
        self._check(plan, scopes)
        for owner in plan.dispatched:
            plan.tables[owner] = self._tables(plan, owner, scopes)
            plan.methods[owner] = scopes.methods(owner)
        for owner in plan.dispatched:
            self._shield(plan, owner)
        return plan

    def _check(self, plan: Plan, scopes: Scopes) -> None:
        problems = list(scopes.problems)
        for owner, sites in plan.dispatched.items():
            module = self.modules[owner]
            for site in sites.values():
                reason = _obstacle(module, site)
                if reason:
                    problems.append((site, reason))
        problems += [pair for owner in plan.dispatched for pair in self._in_scripts(owner, plan)]
        if problems:
            listed = "; ".join(f"{site}: {reason}" for site, reason in problems)
            names = [site.name for site, _ in problems]
            raise RotationError(
                f"these activations cannot have slopes of their own: {listed}; leave them plain with "
                f"exclude={names!r}, or give each call its own activation module"
            )

    def _in_scripts(self, owner: str, plan: Plan) -> Iterable[tuple[Site, str]]:
        """Sites of functions that a script function of the same owner calls too: only ``torch.export`` counts those."""
        scripts = {name: function.name for run in self._runs(owner) for function, name in _script_calls(run)}
        for site in plan.dispatched[owner].values():
            if site.function in scripts:
                yield (
                    site,
                    (
                        f"the torch.jit.script function {scripts[site.function]} beside it calls {site.function} too, "
                        "which torch.export counts and Python does not: take torch.jit.script away"
                    ),
                )

    def _tables(self, plan: Plan, owner: str, scopes: Scopes) -> dict[bool, Table]:
        """For each mode, what happens at each call of the counted functions, in each scope."""
        sites = plan.dispatched[owner]
        steps: dict[Call | None, Step] = {
            gate.call: _step(child, site) for child, site in sites.items() for gate in site.gates
        }
        tables: dict[bool, Table] = {}
        for run in self._runs(owner):
            keys = {counted(site.scope, site.function): site for site in sites.values()}
            table = tables.setdefault(run.training, {key: [] for key in keys})
            for key, site in keys.items():
                calls = self._scope_events(run, site, sites, scopes)
                found = [steps[call] if call in steps else Step() for call in calls]
                table[key] = _joined(table[key], found, owner, site.function, sites)
        for mode in (True, False):
            tables.setdefault(mode, tables[not mode] if mode not in tables and tables else {})
        return tables

    def _scope_events(
        self, run: Run, site: Site, sites: Mapping[str, Site], scopes: Scopes
    ) -> list[Call | None]:
        """Calls of a site's function in its scope, in order."""
        events = self._own_events(run, site.function, sites)
        if not scopes.methods(site.owner):
            return events
        if None in events:
            raise RotationError(
                f"{site} cannot be told from calls of {site.function} on the network's own tensors, since "
                f"torch.utils.checkpoint runs methods of its module once more; leave it plain with "
                f"exclude=[{site.name!r}]"
            )
        return [call for call in events if call is not None and scopes.of(site.owner, call) == site.scope]

    def _runs(self, owner: str) -> list[Run]:
        return [run for recording in self.recordings for run in recording.runs if run.name == owner]

    def _own_events(self, run: Run, name: str, sites: Mapping[str, Site]) -> list[Call | None]:
        """Calls of a function by an owner's own code, and by the gate modules that it dispatches, in order."""
        inlined = {site.module for site in sites.values() if site.module}
        recording = next(recording for recording in self.recordings if run in recording.runs)
        runs = [other for other in recording.runs if other.parent is run and other.name in inlined]
        events = [event for source in (run, *runs) for event in source.events if event[0] == name]
        return [call for _, call, _ in sorted(events, key=lambda event: event[2])]

    def _shield(self, plan: Plan, owner: str) -> None:
        """Hide calls of the functions that an owner counts where they are not its own."""
        sites = plan.dispatched[owner]
        names = {site.function for site in sites.values()}
        inlined = {site.module for site in sites.values() if site.module}
        swapped = {site.module: place for place, site in plan.swaps.items()}
        for recording in self.recordings:
            for run in recording.runs:
                around = list(run.chain())
                position = next((at for at, other in enumerate(around) if other.name == owner), 0)
                between = around[:position]
                if not between or (len(between) == 1 and run.name in inlined):
                    continue
                if any(other.name in plan.dispatched or is_dispatching(other.module) for other in between):
                    continue
                if isinstance(run.module, Rotated):
                    plan.hidden.add(run.name)
                elif run.name in swapped:
                    plan.hidden.update(place for place, site in plan.swaps.items() if site.module == run.name)
                elif names & {name for name, _, _ in run.events} | names & {
                    name for _, name in _script_calls(run)
                }:
                    plan.shields.add(run.name)


def _script_calls(run: Run) -> list[tuple[Any, str]]:
    """Script functions that a run calls, each with every torch function that it calls inside."""
    functions = [call.func for name, call, _ in run.events if name == SCRIPT and call is not None]
    return [(function, name) for function in functions for name in called_by_script(function)]


def _step(child: str, site: Site) -> Step:
    return Step(child, computes_gate(site), _written_back(site))


def computes_gate(site: Site) -> bool:
    """Whether the module with the slopes computes the gate itself, instead of scaling what the call returns."""
    calls = [gate.call for gate in site.gates]
    plain = site.function in PLAIN_GATES and all(len(gate.region) == 1 for gate in site.gates)
    return plain and all(
        all(isinstance(argument, bool) for argument in call.args[1:])
        and bool(call.args)
        and set(call.kwargs) <= {"inplace", "approximate"}
        for call in calls
    )


def plain_gate(site: Site) -> nn.Module:
    """A module for the function of a site, for which :func:`computes_gate` holds."""
    call = site.call
    if site.function == "gelu":
        return nn.GELU(call.kwargs.get("approximate", "none"))
    # What is written back overwrites the argument afterwards, and the gate's backward pass needs its own result.
    in_place = call.in_place and not _written_back(site)
    gate: nn.Module = PLAIN_GATES[site.function](inplace=True) if in_place else PLAIN_GATES[site.function]()
    return gate


def _written_back(site: Site) -> bool:
    """Whether the gate works in place and the caller goes on with the argument, not with what was returned."""
    return any(gate.call.in_place and gate.output.kept and not gate.output.returned for gate in site.gates)


def _obstacle(module: nn.Module, site: Site) -> str:
    """Why an owner cannot dispatch a site's calls."""
    if any(gate.call.name == SCRIPT for gate in site.gates):
        name = site.call.func.name
        return f"it is the torch.jit.script function {name}, whose calls cannot be seen: take torch.jit.script away"
    if any(gate.call.opaque for gate in site.gates):
        return "its module is called several times, and what it does is hidden in an autograd function or a script"
    if isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule)):
        kind = "torch.jit script" if isinstance(module, torch.jit.ScriptModule) else "torch.fx GraphModule"
        return f"its forward belongs to a {kind}, which cannot be extended: rotate the network before it becomes one"
    return ""


def _joined(
    known: list[Step], found: list[Step], owner: str, name: str, sites: Mapping[str, Site]
) -> list[Step]:
    """The longer of two lists of steps, which have to agree as far as both go."""
    if any(one != other for one, other in zip(known, found, strict=False)):
        listed = "; ".join(str(site) for site in sites.values() if site.function == name)
        raise RotationError(
            f"the forward of {owner or 'the root module'} calls {name} in another order from one call to the next, so "
            f"that these cannot be told apart: {listed}; leave them plain with "
            f"exclude={[site.name for site in sites.values() if site.function == name]!r}"
        )
    return known if len(known) >= len(found) else found
