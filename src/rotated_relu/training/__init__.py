"""Training: configurations, recipes, a resumable fit into a run directory, fine-tuning, evaluation."""

from . import recipes
from .config import (
    BudgetConfig,
    Config,
    ConfigError,
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
from .fit import Fitted, finetune, fit
from .images import load_data
from .scoring import loss_scores
from .trained import build_model

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
