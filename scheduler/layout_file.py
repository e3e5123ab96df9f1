"""What the run's model is made of, kept in the run's folder.

Measuring it takes transformers, and that takes seconds of a processor to load. A scheduler that comes back after a
crash has to listen before the next one is needed, and nothing else in it needs transformers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

from swarm.config import RunConfig
from swarm.durable import keeping
from swarm.errors import DiskRefused
from swarm.model.layout import Layout
from swarm.model.spans import LayerSpan


def layout_of(config: RunConfig, file: Path) -> Layout:
    """As measured before, or measured and kept now; a file that is damaged or of another configuration is made anew.

    Raises:
        ModelUnsupported, ConfigError: as `swarm.model.blueprint.layout`.
    """
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept.pop("fingerprint") == config.fingerprint:
            trunk, sizes = LayerSpan(*kept.pop("trunk")), tuple(kept.pop("layer_parameters"))
            return Layout(trunk=trunk, layer_parameters=sizes, **kept)
    from swarm.model.blueprint import layout  # seconds

    found = layout(config)
    text = json.dumps({"fingerprint": config.fingerprint, **dataclasses.asdict(found)})
    with contextlib.suppress(DiskRefused), keeping(file) as out:  # it is measured again next time
        out.write(text.encode())
    return found
