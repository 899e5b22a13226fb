"""SignImage: build, push and sign container images with Docker Content Trust.

The package is flat and its imports point strictly downwards; `docs/architecture.md` has the map.
"""

__version__ = "1.0.0"
