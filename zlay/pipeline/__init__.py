"""Frame workers, verdicts, holds and sequencing, and the shapes they share with Python threads."""
