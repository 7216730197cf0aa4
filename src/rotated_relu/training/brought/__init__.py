"""The network that somebody brings: its code, its weights and its preprocessing, wherever they come from."""

from .architectures import Architecture, parse
from .state_dicts import fill, read_state_dict
from .weights import bring, known_preprocessing

__all__ = ["Architecture", "bring", "fill", "known_preprocessing", "parse", "read_state_dict"]
