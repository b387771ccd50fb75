"""Apparent-personality scores from video, audio and transcript. Importing this package imports no torch."""

from mmtraits import _wheels
from mmtraits.errors import BundleError, ConfigError, ManifestError, MediaError, MMTraitsError
from mmtraits.schema import Clip, Trait, TraitSchema, TraitScores

__version__ = "0.1.0"

__all__ = [
    "BundleError",
    "Clip",
    "ConfigError",
    "MMTraitsError",
    "ManifestError",
    "MediaError",
    "Trait",
    "TraitSchema",
    "TraitScores",
]

_wheels.install()
