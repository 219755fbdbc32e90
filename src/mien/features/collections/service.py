"""The Collections job as one thing: what runtime builds, and what slices above may call."""

from mien.backends.blobs.base import BlobStore
from mien.backends.bus.base import EventBus
from mien.backends.pipelines.base import Pipelines
from mien.backends.sql.base import Database
from mien.backends.vectors.base import VectorIndex
from mien.features.collections.catalog import Catalog
from mien.features.collections.faces import Faces
from mien.features.collections.imports import Imports
from mien.features.collections.limits import CollectionLimits
from mien.features.collections.persons import Persons
from mien.features.collections.photos import Photos
from mien.features.collections.projection import Projection
from mien.features.collections.search import Search
from mien.features.collections.thresholds import Thresholds
from mien.features.jobs.service import JobsService
from mien.kit.clock import Clock, utc_now
from mien.vision.calibration import Calibrations


class CollectionsService:
    """Detect, compare, collections, faces, search, persons, imports; `start` before use, then `close`."""

    def __init__(
        self,
        database: Database,
        vectors: VectorIndex,
        pipelines: Pipelines,
        jobs: JobsService,
        blobs: BlobStore,
        bus: EventBus,
        calibrations: Calibrations,
        clock: Clock = utc_now,
        limits: CollectionLimits | None = None,
    ) -> None:
        self.limits = limits or CollectionLimits()
        self.bus = bus
        thresholds = Thresholds(calibrations)
        self.projection = Projection(database, vectors, self.limits)
        self.photos = Photos(pipelines, thresholds)
        self.catalog = Catalog(
            database, vectors, pipelines, jobs, self.projection, thresholds, clock, self.limits
        )
        self.faces = Faces(database, pipelines, self.projection, thresholds, clock, self.limits)
        self.search = Search(database, vectors, pipelines, self.projection, thresholds, self.limits)
        self.persons = Persons(database, self.search, thresholds, clock, self.limits)
        self.imports = Imports(database, blobs, jobs, self.faces, self.persons, self.limits)
        self.imports.register()
        self.catalog.register()

    async def start(self) -> None:
        """Begin to catch the indexes up with what a crash left."""
        await self.projection.start()

    async def close(self) -> None:
        """Stop catching up; the stores that were given are their owner's to close."""
        await self.projection.close()
