"""Starts from the geometries before: for dynamics and optimisations."""

from pyscf_mlham.track.mixin import track

__all__ = ["track"]
