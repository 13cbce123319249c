"""TLS settings that all requests of the tests share: making them takes 20 ms, and httpx makes them for each request."""

from __future__ import annotations

import httpx

TLS = httpx.create_ssl_context()
