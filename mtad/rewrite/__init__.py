"""Address completion and address classes; Postfix counterpart: ``trivial-rewrite(8)``."""
