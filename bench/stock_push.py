"""Feast's own feature server, on one port: ``python -m bench.stock_push PORT``."""

from __future__ import annotations

import sys

import uvicorn
from adin.features.store import feature_store
from feast.feature_server import get_app


def main() -> None:
    """Serve until ended."""
    uvicorn.run(get_app(feature_store()), host="127.0.0.1", port=int(sys.argv[1]), access_log=False)


if __name__ == "__main__":
    main()
