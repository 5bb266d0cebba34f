"""Write models/backbones.json: what only building a backbone tells (`nox -s catalogue`)."""

import json
from pathlib import Path

from keras_transfer.backbones.applications import backbone_names, find_backbone
from keras_transfer.models.catalogue import built_facts

facts = {name: built_facts(find_backbone(name)) for name in sorted(backbone_names())}
path = Path(__file__).parent.parent / "keras_transfer" / "models" / "backbones.json"
path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
