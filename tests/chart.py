"""The Helm chart's objects, by a renderer that knows what the chart uses and nothing else."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from adin.settings import ROOT

DEPLOY = ROOT / "deploy" / "kubernetes"
VALUES = yaml.safe_load((DEPLOY / "adin" / "values.yaml").read_text())


def rendered() -> list[dict[str, Any]]:
    """Return the chart's objects. It uses one loop, values, ``upper`` and ``quote``; anything else is an error."""
    text = (DEPLOY / "adin" / "templates" / "services.yaml").read_text()
    head, body, end = re.split(r"\{\{- (?:range \$name, \$service := \.Values\.services|end) \}\}", text)
    assert not head.strip() and not end.strip()

    def whole(name: str, service: dict[str, Any]) -> str:
        def value(found: re.Match[str]) -> str:
            upper, path, quote = found.groups()
            known = {"$name": name} | {f"$service.{key}": each for key, each in service.items()}
            known |= {"$.Values.secret": VALUES["secret"]}
            made = str(known[path]).upper() if upper else str(known[path])
            return json.dumps(made) if quote else made

        return re.sub(r"\{\{ (upper )?(\$[\w.]+)( \| quote)? \}\}", value, body)

    text = "".join(whole(name, service) for name, service in VALUES["services"].items())
    assert "{{" not in text
    return [found for found in yaml.safe_load_all(text) if found]
