"""How easily the networks of runs are misled, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ...core import messages
from ...core.devices import device_type
from ...core.environment import environment
from ...core.errors import RunError
from ...core.messages import Say
from ...core.progress import numbered, showing, task
from ...core.run_directory import write_json
from ..run_networks import WEIGHTS, RunNetworks

if TYPE_CHECKING:
    from torch import Tensor

    from ..robustness import AttackSettings, OnPixels


@dataclass(frozen=True)
class Victim:
    """One network to attack.

    Attributes:
        run: The run directory as it was given.
        weights: ``trained``, ``compact`` or ``finetuned``.
        kind: What reports call it: ``relu`` or ``rotated`` for a trained one, else ``weights``.
        net: The network, on pixels.
    """

    run: str
    weights: str
    kind: str
    net: OnPixels

    @property
    def name(self) -> str:
        """For progress and tables."""
        return f"{self.run}: {self.weights}"


def attack_runs(
    runs: Mapping[str, RunNetworks],
    settings: AttackSettings,
    images: int,
    pgd_images: int | None = None,
    *,
    device: str = "cpu",
    progress: str = "none",
    say: Say = messages.say,
) -> dict[str, Any]:
    """Attack all networks of some runs and keep the result in the first of them, once all is done.

    Args:
        runs: By the names that the result uses; all trained on the same images.
        settings: What the attacker may do.
        images: Test images, at most all.
        pgd_images: Of these, the first ones, for PGD and the Lipschitz constant; all if None.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        progress: ``auto``, ``bar``, ``lines`` (one per network, and now and then) or ``none``.
        say: Called with those lines.

    Returns:
        Plain data: ``settings`` (those of the attacker, and ``images``, ``pgd_images``, ``split``), ``networks`` (per
        network ``run``, ``weights``, ``kind``, ``clean``, ``fgsm``, ``pgd`` in percent, ``lipschitz``), ``library``,
        ``environment``.

    Raises:
        MissingPackageError: If the attack library is not installed.
        AttackError: If a network's scores are not finite.
        RunError: If a run has not been trained to the end, or the runs have different test images.
        UnknownNameError: If there is no such kind of device.
        ConfigError: If torch finds no such device.
    """
    from ...training.engine.distributed import check_device
    from ..robustness import library, passes, robustness

    check_device(device)
    version = str(library().__version__)
    for loaded in runs.values():
        loaded.run.need("weights")
    keeper = next(iter(runs.values())).run
    keeper.check_writable()
    pixels, labels = _common_images(runs, images, settings.seed)
    pgd_images = min(pgd_images or len(labels), len(labels))
    victims = list(_victims(runs, device_type(device)))
    rows = []
    steps = passes(len(labels), pgd_images, settings.steps) * len(victims)
    with showing(progress, say), task("attack", steps) as work:
        for place, victim in enumerate(victims, 1):
            work.at(numbered(f"attacking {victim.name} network", place, len(victims)))
            found = robustness(
                victim.net, pixels, labels, settings, pgd_images=pgd_images, advance=work.advance
            )
            what = {"run": victim.run, "weights": victim.weights, "kind": victim.kind}
            rows.append({**what, **asdict(found)})
    counts = {"images": len(labels), "pgd_images": pgd_images, "split": "test"}
    data = {
        "settings": {**settings.to_dict(), **counts},
        "networks": rows,
        "library": f"torchattack {version}",
        "environment": environment(),
    }
    write_json(keeper.file("attack"), data)
    return data


def _common_images(runs: Mapping[str, RunNetworks], count: int, seed: int) -> tuple[Tensor, Tensor]:
    """The chosen test images, after making sure that all runs have the same."""
    import torch

    from ..robustness import choose_images

    names = list(runs)
    chosen = [choose_images(runs[name].images.test, count, seed) for name in names]
    for name, (images, labels) in zip(names[1:], chosen[1:], strict=True):
        if not (torch.equal(images, chosen[0][0]) and torch.equal(labels, chosen[0][1])):
            raise RunError(
                f"{name} has other test images than {names[0]}: attack runs that were trained on the same data"
            )
    return chosen[0]


def _victims(runs: Mapping[str, RunNetworks], device: str) -> Iterator[Victim]:
    """Every network that the runs have, trained ones first within a run."""
    from ..robustness import OnPixels

    for run, loaded in runs.items():
        for weights in WEIGHTS:
            if weights == "trained" or loaded.run.has(weights):
                kind = loaded.trained_key if weights == "trained" else weights
                net = OnPixels(loaded.network(weights), loaded.image_format.mean, loaded.image_format.std)
                yield Victim(run, weights, kind, net.to(device))
