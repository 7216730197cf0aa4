"""Training: configurations, recipes, a resumable fit into a run directory, fine-tuning, evaluation.

Names are imported when first used: settings and recipes, which the command line's help reads, need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.extras import needs
from ..core.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, _HOMES, {"recipes": "recipes"})
