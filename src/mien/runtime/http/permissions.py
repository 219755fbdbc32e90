"""Which role may do what, in one place.

Administrators may do all that an endpoint does. An operator (a key of the kind `service`) recognises and
reads: it changes nothing that is stored, and sees no keys.
"""

from mien.kit.errors import Forbidden
from mien.kit.tenant import Principal

_ADMINISTRATORS = frozenset({"system_admin", "tenant_admin"})
_READS = frozenset({"GET", "HEAD"})
_RECOGNISES = frozenset(
    {
        "/v1/detect",
        "/v1/compare",
        "/v1/collections/{name}/search",
        "/v1/collections/{name}/persons/search",
    }
)
_ADMINISTERS = frozenset({"/v1/keys", "/v1/keys/{key_id}/revoke"})


def require(principal: Principal, method: str, route: str) -> None:
    """Forbidden unless this role may call this route (its path with the names of its parameters)."""
    if principal.role in _ADMINISTRATORS:
        return
    if (
        principal.role == "operator"
        and route not in _ADMINISTERS
        and (method in _READS or route in _RECOGNISES)
    ):
        return
    raise Forbidden("This key only recognises and reads; an administrator's key may do this.")
