"""Collections, persons, faces, their numbered changes and threshold moves."""

import sqlalchemy as sa
from alembic import op

from mien.backends.sql.base import UtcDateTime

revision = "0002_collections"
down_revision: str | None = "0001_tenants_jobs"


def upgrade() -> None:
    op.create_table(
        "collection",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.Column("space_model", sa.String(length=128), nullable=False),
        sa.Column("space_recipe", sa.Integer(), nullable=False),
        sa.Column("space_alignment", sa.String(length=64), nullable=False),
        sa.Column("space_dim", sa.Integer(), nullable=False),
        sa.Column("change_head", sa.BigInteger(), nullable=False),
        sa.Column("change_tail", sa.BigInteger(), nullable=False),
        sa.Column("face_count", sa.BigInteger(), nullable=False),
        sa.Column("threshold_score", sa.Float(), nullable=False),
        sa.Column("threshold_gallery", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenant.id"], name=op.f("fk_collection_tenant_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_collection")),
        sa.UniqueConstraint("tenant_id", "name", name="uq_collection_name"),
    )
    op.create_table(
        "person",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("external_id", sa.String(length=512), nullable=True),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "collection_id"],
            ["collection.tenant_id", "collection.id"],
            name=op.f("fk_person_tenant_id_collection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_person")),
        sa.UniqueConstraint("tenant_id", "collection_id", "external_id", name="uq_person_external_id"),
    )
    op.create_index("ix_person_collection", "person", ["tenant_id", "collection_id", "id"], unique=False)
    op.create_table(
        "threshold_move",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column("cause", sa.String(length=64), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("fmr", sa.Float(), nullable=True),
        sa.Column("fpir", sa.Float(), nullable=True),
        sa.Column("fnmr", sa.Float(), nullable=True),
        sa.Column("gallery_size", sa.BigInteger(), nullable=False),
        sa.Column("face_count", sa.BigInteger(), nullable=False),
        sa.Column("extrapolated", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "collection_id"],
            ["collection.tenant_id", "collection.id"],
            name=op.f("fk_threshold_move_tenant_id_collection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_threshold_move")),
    )
    op.create_index(
        "ix_threshold_move_collection", "threshold_move", ["tenant_id", "collection_id", "id"], unique=False
    )
    op.create_table(
        "vector_change",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("label", sa.BigInteger(), nullable=False),
        sa.Column("added", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "collection_id"],
            ["collection.tenant_id", "collection.id"],
            name=op.f("fk_vector_change_tenant_id_collection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "collection_id", "number", name=op.f("pk_vector_change")),
    )
    op.create_table(
        "face",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column("label", sa.BigInteger(), nullable=False),
        sa.Column("person_id", sa.Uuid(), nullable=True),
        sa.Column("external_image_id", sa.String(length=512), nullable=True),
        sa.Column("image_sha256", sa.String(length=64), nullable=False),
        sa.Column("image_width", sa.Integer(), nullable=False),
        sa.Column("image_height", sa.Integer(), nullable=False),
        sa.Column("box", sa.JSON(), nullable=False),
        sa.Column("landmarks", sa.JSON(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.Column("quality_score", sa.Float(), nullable=True),
        sa.Column("quality", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("attributes", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("space_key", sa.String(length=255), nullable=False),
        sa.Column("runtime", sa.String(length=128), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("embedding", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "collection_id"],
            ["collection.tenant_id", "collection.id"],
            name=op.f("fk_face_tenant_id_collection_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "person_id"],
            ["person.tenant_id", "person.id"],
            name=op.f("fk_face_tenant_id_person_id"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_face")),
        sa.UniqueConstraint("tenant_id", "collection_id", "label", name="uq_face_label"),
    )
    op.create_index(
        "ix_face_external", "face", ["tenant_id", "collection_id", "external_image_id"], unique=False
    )
    op.create_index("ix_face_image", "face", ["tenant_id", "collection_id", "image_sha256"], unique=False)
    op.create_index("ix_face_person", "face", ["tenant_id", "collection_id", "person_id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_face_person", table_name="face")
    op.drop_index("ix_face_image", table_name="face")
    op.drop_index("ix_face_external", table_name="face")
    op.drop_table("face")
    op.drop_table("vector_change")
    op.drop_index("ix_threshold_move_collection", table_name="threshold_move")
    op.drop_table("threshold_move")
    op.drop_index("ix_person_collection", table_name="person")
    op.drop_table("person")
    op.drop_table("collection")
