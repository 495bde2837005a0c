"""The places that a soak uses, and what it can do to each of them."""

from tests.soak.places.base import Bots, Place
from tests.soak.places.postgres import Postgres
from tests.soak.places.redis import Cluster, Redis, Sentinels
from tests.soak.places.sqlite import SQLite

PLACES: dict[str, type[Place]] = {
    place.name: place for place in (SQLite, Postgres, Redis, Sentinels, Cluster)
}

__all__ = ["PLACES", "Bots", "Place"]
