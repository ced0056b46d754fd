"""KServe as its documents show it: a predictor, and a transformer that asks Feast and calls it over HTTP.

Run in the ML environment: ``python -m bench.stock_kserve predictor|transformer PORT [PREDICTOR_PORT]``.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import kserve
import pandas as pd
from adin.features.store import feature_store
from adin.models import artifact, registry

from bench.stock_features import features

PROBLEM = "flights_delay"


class Predictor(kserve.Model):
    """The bare model: rows of features in, predictions out."""

    def __init__(self) -> None:
        super().__init__(PROBLEM)
        models = registry()
        found = models.champion(PROBLEM)
        assert found
        with tempfile.TemporaryDirectory() as folder:
            self.model = artifact.load(models.download(PROBLEM, found.number, Path(folder)))
        self.columns = list(found.manifest.features)
        self.ready = True

    def predict(self, payload: Any, headers: Any = None) -> Any:
        frame = pd.DataFrame(payload["instances"], columns=self.columns)
        return {"predictions": self.model.predict(frame).tolist()}


class Transformer(kserve.Model):
    """Feast's SDK, then the predictor over HTTP."""

    def __init__(self, predictor: str) -> None:
        super().__init__(PROBLEM)
        self.store = feature_store()
        self.http = httpx.AsyncClient(base_url=predictor)
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None) -> Any:
        instances = features(self.store, payload["instances"])
        answer = await self.http.post(f"/v1/models/{PROBLEM}:predict", json={"instances": instances})
        return answer.json()


def main() -> None:
    role, port = sys.argv[1], int(sys.argv[2])
    model = Predictor() if role == "predictor" else Transformer(f"http://127.0.0.1:{sys.argv[3]}")
    for name in ("kserve", "kserve.trace", "uvicorn.access", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    kserve.ModelServer(http_port=port, enable_grpc=False, workers=1).start([model])


if __name__ == "__main__":
    main()
