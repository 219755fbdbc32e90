"""Every slice's tables, named one by one: what the schema must equal."""

from mien.backends.sql.base import Table
from mien.features.collections import tables as collections
from mien.features.jobs import tables as jobs
from mien.features.tenants import tables as tenants

SLICES = (tenants, jobs, collections)
METADATA = Table.metadata
