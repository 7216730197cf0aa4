"""Training: configurations, recipes, a resumable fit into a run directory, fine-tuning, evaluation."""

from . import recipes
from .config import Config, ConfigError, DataConfig, ModelConfig, OptimiserConfig, ScheduleConfig
from .evaluation import evaluate_model
from .fit import Fitted, build_model, finetune, fit, load_data

__all__ = [
    "Config",
    "ConfigError",
    "DataConfig",
    "Fitted",
    "ModelConfig",
    "OptimiserConfig",
    "ScheduleConfig",
    "build_model",
    "evaluate_model",
    "finetune",
    "fit",
    "load_data",
    "recipes",
]
