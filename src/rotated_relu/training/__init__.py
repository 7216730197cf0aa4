"""Training: configurations, recipes, a resumable fit into a run directory, fine-tuning, evaluation.

Names are imported when first used: settings and recipes, which the command line's help reads, need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..core.extras import needs

needs("pydantic")  # every file here is about settings, which are its classes

if TYPE_CHECKING:
    from . import recipes
    from .config import (
        BudgetConfig,
        Config,
        DataConfig,
        KeepConfig,
        LogConfig,
        ModelConfig,
        OptimizerConfig,
        ScaleConfig,
        ScheduleConfig,
    )
    from .engine.signals import Terminated
    from .evaluation import evaluate_model, sample_batches
    from .fitting import Fitted, finetune, fit
    from .images import load_data
    from .scoring import loss_scores
    from .settings import ConfigError
    from .trained import build_model

_HOMES = {
    "config": (
        "BudgetConfig",
        "Config",
        "DataConfig",
        "KeepConfig",
        "LogConfig",
        "ModelConfig",
        "OptimizerConfig",
        "ScaleConfig",
        "ScheduleConfig",
    ),
    "engine.signals": ("Terminated",),
    "evaluation": ("evaluate_model", "sample_batches"),
    "fitting": ("Fitted", "finetune", "fit"),
    "images": ("load_data",),
    "scoring": ("loss_scores",),
    "settings": ("ConfigError",),
    "trained": ("build_model",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BudgetConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "Fitted",
    "KeepConfig",
    "LogConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ScaleConfig",
    "ScheduleConfig",
    "Terminated",
    "build_model",
    "evaluate_model",
    "finetune",
    "fit",
    "load_data",
    "loss_scores",
    "recipes",
    "sample_batches",
]


def __getattr__(name: str) -> Any:
    if name == "recipes":
        return importlib.import_module(".recipes", __name__)
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
