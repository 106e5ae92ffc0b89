"""Prefect's server, which answers only requests that name one of RATCHET_PREFECT_HOSTS.

A web page whose host name leads to this machine (DNS rebinding) counts in the browser as a page of this server, but the
browser still names that host.
"""

import os

from prefect.server.api.server import create_app as create_prefect_app
from starlette.middleware.trustedhost import TrustedHostMiddleware


def create_app() -> TrustedHostMiddleware:
    """Return the application that uvicorn runs."""
    hosts = os.environ["RATCHET_PREFECT_HOSTS"].split(",")
    return TrustedHostMiddleware(create_prefect_app(), allowed_hosts=hosts, www_redirect=False)
