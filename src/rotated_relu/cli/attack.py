"""``rotated-relu attack``: how easily the networks of runs are misled, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..experiments.run_networks import open_run
from ..experiments.stages.attack import attack_runs
from . import console
from .options import Progress, check_choices

if TYPE_CHECKING:
    from rich.table import Table

EXAMPLE = "rotated-relu attack runs/first runs/first-relu --images 1000 --pgd-images 200"


def attack(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="The run that keeps the result, and any others of the same images, such as ReLU.",
            show_default=False,
        ),
    ],
    images: Annotated[int, typer.Option(min=1, help="Test images, chosen by the seed.")] = 1000,
    pgd_images: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of these, the images for PGD and the Lipschitz constant, which are slow. Default: all.",
            show_default=False,
        ),
    ] = None,
    eps: Annotated[float, typer.Option(help="Largest change of a pixel, in units of [0, 1].")] = 0.031,
    steps: Annotated[int, typer.Option(min=1, help="Steps of eps / 5, of PGD and the constant.")] = 60,
    random_start: Annotated[
        bool, typer.Option("--random-start", help="PGD begins at a random place within eps.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of images and of random starts.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 100,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="What to compute on.")] = "auto",
    progress: Progress = "auto",
) -> None:
    """Accuracy under FGSM and PGD (L-infinity), and the local Lipschitz constant; kept in attack.json.

    Attacks the trained, compacted and fine-tuned networks of every run, as far as there are.
    Reads test images: meant for the end. Needs torchattack: pip install 'rotated-relu[attack]'.
    """
    from ..experiments.robustness import AttackSettings

    check_choices(progress, device)
    settings = AttackSettings(eps, steps, random_start, seed, batch_size)
    opened = {run: open_run(run) for run in runs}
    data = attack_runs(opened, settings, images, pgd_images, device=device, progress=progress)
    console.show(attack_table(data))


def attack_table(data: Mapping[str, Any]) -> Table:
    """Table of :func:`attack_runs`: one row per network."""
    settings = data["settings"]
    rows = [
        (
            f"{row['run']}: {row['weights']}",
            *(console.percent(row[name]) for name in ("clean", "fgsm", "pgd")),
            console.decimal(row["lipschitz"]),
        )
        for row in data["networks"]
    ]
    used = f"{console.count(settings['images'])} test images"
    if settings["pgd_images"] != settings["images"]:
        used += f", {console.count(settings['pgd_images'])} for PGD and Lipschitz"
    title = f"L-infinity, eps {settings['eps']:g}, {settings['steps']} steps; {used}"
    return console.table(title, ("network", "clean", "FGSM", "PGD", "Lipschitz"), rows)
