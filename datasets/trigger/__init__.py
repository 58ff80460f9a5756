"""Trigger sets (scheme V3, section 3.4): abstract pictures whose labels only a model that was trained on them knows.

`adi` is the published set, `keyed` an owner's own, `folder` one that was exported; `mixing` trains on them. To add a kind: write
its module here, then one entry in `datasets.TRIGGER_SETS`.
"""

from datasets.trigger.adi import load_adi
from datasets.trigger.folder import export, load_exported
from datasets.trigger.keyed import keyed, new_key, read_key
from datasets.trigger.mixing import following, with_triggers
from datasets.trigger.trigger_set import TriggerSet

__all__ = ["TriggerSet", "export", "following", "keyed", "load_adi", "load_exported", "new_key", "read_key", "with_triggers"]
