"""A collection's threshold, and the record of its moves.

A move is recorded in the transaction that caused it (faces added or removed, another policy). The
threshold that a search applies is computed from the same policy, the same table and the number of
faces that the search read, so both agree; only a calibration table that was exchanged shows at once
in searches and is recorded by the next write.
"""

from datetime import datetime

from mien.features.collections.records import Collection
from mien.features.collections.repository import CollectionRepository
from mien.kit.ids import new_id
from mien.vision.calibration import Calibration, Calibrations, MatchPolicy, Threshold, uncalibrated


class Thresholds:
    """Thresholds by the tables of the installation."""

    def __init__(self, calibrations: Calibrations) -> None:
        self._calibrations = calibrations

    def table(self, space_key: str) -> Calibration | None:
        return self._calibrations.for_space(space_key)

    def at(self, space_key: str, policy: MatchPolicy, gallery_size: int) -> Threshold:
        """BadInput if the policy needs a table that the space does not have."""
        table = self.table(space_key)
        if table is None:
            return uncalibrated(policy, gallery_size, space_key)
        return table.threshold(policy, gallery_size)

    def of(self, collection: Collection, policy: MatchPolicy | None = None) -> Threshold:
        """The threshold of a search: by `policy`, or by the collection's own."""
        return self.at(collection.space.key, policy or collection.policy, collection.face_count)

    async def record(
        self, repository: CollectionRepository, after: Collection, cause: str, now: datetime
    ) -> None:
        """Record a move, if there was one; `after` is the collection as the change leaves it."""
        threshold = self.of(after)
        same_size = threshold.gallery_size == after.threshold_gallery
        if same_size and threshold.score == after.threshold_score and cause != "policy_changed":
            return
        if not same_size and threshold.score == after.threshold_score and not after.policy.needs_table:
            return  # a fixed score does not move with the gallery
        if same_size and cause in ("faces_added", "faces_removed"):
            cause = "calibration_changed"
        await repository.record_move(new_id(), after.id, threshold, cause, after.face_count, now)
