OUTCOMES: tuple[str, ...]
